//! `/etc/passwd` and `/etc/group` of a container, and the rules by which they turn a user's name
//! into ids. Pure: the text is an image's, lines that make no sense are passed over.

use std::str::FromStr;

/// Most supplementary groups of one user; the kernel takes 65536.
const MAX_GROUPS: usize = 1024;

/// An id that the kernel keeps for "no change".
const NO_ID: u32 = u32::MAX;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Why a name leads to nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// neither a number nor in /etc/passwd
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// neither a number nor in /etc/group
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// a number that is no id
    #[error("{0} is no user or group id")]
    OutOfRange(String),
}

#[derive(Debug, PartialEq, Eq)]
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Group<'_> {
    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member == user)
    }
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty()).then_some(User { name, uid, gid, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        (!name.is_empty()).then_some(Group { name, gid, members })
    })
}

/// A number where the text is one.
fn number(text: &str) -> Option<Result<u32, UserError>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let id = u32::from_str(text).ok().filter(|id| *id != NO_ID);
    Some(id.ok_or_else(|| UserError::OutOfRange(text.to_owned())))
}

/// Looks up `user`, `uid`, `user:group`, `uid:gid` and the mixtures; empty is root.
///
/// A name goes before a number that looks the same. A group that is given stands alone; else the
/// user's groups are those of both files.
pub fn look_up(
    name: &str,
    further: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, UserError> {
    let (user_part, group_part) = match name.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (name, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let by_number = number(user_part);
    let by_name = users(passwd).find(|user| user.name == user_part);
    let user = match (by_name, by_number) {
        (Some(user), _) => user,
        (None, Some(uid)) => {
            let uid = uid?;
            let nobody = User { name: "", uid, gid: 0, home: "" };
            users(passwd).find(|user| user.uid == uid).unwrap_or(nobody)
        }
        (None, None) => return Err(UserError::UnknownUser(user_part.to_owned())),
    };
    if user.uid == NO_ID || user.gid == NO_ID {
        return Err(UserError::OutOfRange(user_part.to_owned()));
    }
    let (gid, mut supplementary) = match group_part {
        Some(part) => (group_id(part, group)?, Vec::new()),
        None => (user.gid, groups_of(user.name, group)),
    };
    for part in further {
        supplementary.push(group_id(part, group)?);
    }
    let home = home_or_root(user.home);
    Ok(Identity { uid: user.uid, gid, groups: supplementary, home })
}

fn group_id(part: &str, group: &str) -> Result<u32, UserError> {
    match (groups(group).find(|group| group.name == part), number(part)) {
        (Some(group), _) if group.gid != NO_ID => Ok(group.gid),
        (_, Some(gid)) => gid,
        (_, None) => Err(UserError::UnknownGroup(part.to_owned())),
    }
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    groups(group)
        .filter(|group| group.has(user) && group.gid != NO_ID)
        .map(|group| group.gid)
        .take(MAX_GROUPS)
        .collect()
}

/// The home directory of a user id.
pub fn home_of(uid: u32, passwd: &str) -> String {
    home_or_root(users(passwd).find(|user| user.uid == uid).map_or("", |user| user.home))
}

fn home_or_root(home: &str) -> String {
    if home.is_empty() { "/".to_owned() } else { home.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
broken:x:one:1::/:
web:x:33:34:Web:/var/www:/bin/sh
1000:x:5:6:a number as a name:/five:
short:x:7:8
";
    const GROUP: &str = "\
root:x:0:
adm:x:4:daemon,web
disk:x:6:root,web
www:x:34:
70:x:71:
";

    fn ids(name: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        look_up(name, &[], PASSWD, GROUP).map(|i| (i.uid, i.gid, i.groups, i.home))
    }

    #[test]
    fn users_by_name_have_their_groups() {
        assert_eq!(ids("web").unwrap(), (33, 34, vec![4, 6], "/var/www".into()));
        assert_eq!(ids("short").unwrap(), (7, 8, vec![], "/".into()));
    }

    #[test]
    fn users_by_number_have_what_passwd_says() {
        assert_eq!(ids("33").unwrap(), (33, 34, vec![4, 6], "/var/www".into()));
        assert_eq!(ids("4711").unwrap(), (4711, 0, vec![], "/".into()));
        assert_eq!(ids("").unwrap(), (0, 0, vec![6], "/root".into()));
    }

    #[test]
    fn a_given_group_stands_alone() {
        assert_eq!(ids("web:adm").unwrap(), (33, 4, vec![], "/var/www".into()));
        assert_eq!(ids("web:99").unwrap(), (33, 99, vec![], "/var/www".into()));
        assert_eq!(ids("1:www").unwrap(), (1, 34, vec![], "/usr/sbin".into()));
        assert_eq!(ids("web:").unwrap().1, 34);
        assert_eq!(ids(":adm").unwrap(), (0, 4, vec![], "/root".into()));
    }

    #[test]
    fn names_go_before_numbers() {
        assert_eq!(ids("1000").unwrap().0, 5);
        assert_eq!(ids("web:70").unwrap().1, 71);
    }

    #[test]
    fn nobody_is_an_error() {
        assert_eq!(ids("ghost"), Err(UserError::UnknownUser("ghost".into())));
        assert_eq!(ids("broken"), Err(UserError::UnknownUser("broken".into())));
        assert_eq!(ids("web:ghosts"), Err(UserError::UnknownGroup("ghosts".into())));
        assert_eq!(ids("4294967295"), Err(UserError::OutOfRange("4294967295".into())));
        assert_eq!(ids("99999999999"), Err(UserError::OutOfRange("99999999999".into())));
        assert_eq!(ids("-1"), Err(UserError::UnknownUser("-1".into())));
    }

    #[test]
    fn homes_are_found_by_id() {
        assert_eq!(home_of(33, PASSWD), "/var/www");
        assert_eq!(home_of(4711, PASSWD), "/");
    }

    #[test]
    fn further_groups_have_names_or_numbers() {
        let with = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            look_up("web:5", &groups, PASSWD, "wheel:x:10:\n").map(|identity| identity.groups)
        };
        assert_eq!(with(&["wheel", "77"]).unwrap(), [10, 77]);
        assert!(matches!(with(&["none"]), Err(UserError::UnknownGroup(_))));
    }

    proptest! {
        #[test]
        fn any_files_are_read_without_panic(name in ".{0,12}", passwd in ".{0,200}", group in ".{0,200}") {
            if let Ok(identity) = look_up(&name, &[], &passwd, &group) {
                prop_assert!(identity.uid != NO_ID && identity.gid != NO_ID);
                prop_assert!(!identity.home.is_empty());
            }
        }

        #[test]
        fn groups_are_bounded(count in 0usize..3000) {
            let group: String = (0..count).map(|n| format!("g{n}:x:{n}:web\n")).collect();
            prop_assert_eq!(look_up("web", &[], PASSWD, &group).unwrap().groups.len(), count.min(MAX_GROUPS));
        }
    }
}
