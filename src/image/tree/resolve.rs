//! Names of layer entries, and where in the tree they lead.

use std::collections::VecDeque;

use super::super::limits::{Budget, LimitError, NAME_BYTES, PATH_BYTES};
use super::{Attributes, Directory, InodeId, Node, ROOT, Tree};

/// Symbolic links followed in one path, as in Linux.
const MAX_LINKS: usize = 40;

/// A name that a layer must not have.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// `..` leads above the root
    #[error("it lies outside the root")]
    Outside,
    /// longer than a path can be
    #[error("its path is longer than {PATH_BYTES} bytes")]
    Long,
    /// a part longer than a file name can be
    #[error("a part of its path is longer than {NAME_BYTES} bytes")]
    LongPart,
    /// a NUL byte in the name
    #[error("its name holds a NUL byte")]
    Nul,
    /// something in the path is neither directory nor symbolic link to one
    #[error("{0:?} in its path is not a directory")]
    NotDirectory(String),
    /// symbolic links in the path that never end
    #[error("its path leads through more than {MAX_LINKS} symbolic links")]
    Loop,
    /// one of the bounds of the load
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// The parts of an entry's name, without `.`, `..` and empty parts; empty for the root.
///
/// As docker does, `..` is resolved by the text alone, a leading slash means the root, and a
/// relative name that leaves the root is refused.
pub fn clean(path: &[u8]) -> Result<Vec<&[u8]>, NameError> {
    if path.len() > PATH_BYTES {
        return Err(NameError::Long);
    }
    if path.contains(&0) {
        return Err(NameError::Nul);
    }
    let absolute = path.starts_with(b"/");
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() && !absolute {
                    return Err(NameError::Outside);
                }
            }
            part if part.len() > NAME_BYTES => return Err(NameError::LongPart),
            part => parts.push(part),
        }
    }
    Ok(parts)
}

impl Tree {
    /// The directory that `parts` lead to. Symbolic links on the way are followed within the root:
    /// absolute ones start there, and `..` ends there. What is missing is made where `make` says
    /// so, else there is none.
    pub fn resolve(
        &mut self,
        parts: &[&[u8]],
        make: bool,
        budget: &mut Budget,
    ) -> Result<Option<InodeId>, NameError> {
        let mut ahead: VecDeque<Box<[u8]>> = parts.iter().map(|part| (*part).into()).collect();
        let mut path = vec![ROOT];
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            budget.steps(1)?;
            let here = path.last().copied().unwrap_or(ROOT);
            match &*part {
                b"" | b"." => continue,
                b".." => {
                    path.pop();
                    continue;
                }
                _ => {}
            }
            let Some(found) = self.lookup(here, &part) else {
                if !make {
                    return Ok(None);
                }
                path.push(self.make_directory(here, &part, budget)?);
                continue;
            };
            match &self.inode(found).node {
                Node::Directory(_) => path.push(found),
                Node::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(NameError::Loop);
                    }
                    if target.starts_with(b"/") {
                        path.clear();
                    }
                    // A target of two thousand parts is as much work as a path of so many.
                    budget.steps(target.len() as u64)?;
                    for part in target.split(|byte| *byte == b'/').rev() {
                        ahead.push_front(part.into());
                    }
                }
                _ if make => {
                    return Err(NameError::NotDirectory(
                        String::from_utf8_lossy(&part).into_owned(),
                    ));
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(path.last().copied().unwrap_or(ROOT)))
    }

    fn make_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        budget: &mut Budget,
    ) -> Result<InodeId, NameError> {
        self.check_room(parent, name)?;
        budget.entry()?;
        let node = Node::Directory(Directory::default());
        let made = self.insert(parent, name, Attributes::IMPLIED, Box::default(), node, budget)?;
        Ok(made)
    }

    /// Checks that `name` is one that a directory can hold, and that its whole path, which
    /// symbolic links may have made longer than it stands in the layer, can be opened.
    pub fn check_room(&self, parent: InodeId, name: &[u8]) -> Result<(), NameError> {
        let above = self.directory(parent).map_or(0, |directory| directory.path_bytes);
        if above + 1 + name.len() > PATH_BYTES {
            return Err(NameError::Long);
        }
        if name.len() > NAME_BYTES {
            return Err(NameError::LongPart);
        }
        if name.contains(&0) {
            return Err(NameError::Nul);
        }
        Ok(())
    }
}
