//! Tests of the registry.

use super::*;

fn registry() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let places =
        Places { data: dir.path().join("d"), state: dir.path().join("s"), templates: None };
    (dir, Registry::new(&places))
}

fn write_state(kept: &Kept, status: Status, remove: bool) {
    let mut state = State::new(kept.id.clone(), kept.name.clone(), "i".into(), vec![]);
    state.status = status;
    state.keeper = Some(nix::unistd::getpid().as_raw());
    state.remove = remove;
    state.write(&kept.folder.state()).unwrap();
}

fn left_behind(registry: &Registry) -> usize {
    let places = &registry.places;
    [places.sandboxes(), places.names()]
        .iter()
        .map(|folder| fs::read_dir(folder).unwrap().count())
        .sum()
}

#[test]
fn a_name_has_one_owner() {
    let (_dir, registry) = registry();
    let first = registry.create(Some("web")).unwrap();
    write_state(&first, Status::Running, true);
    let second = registry.create(Some("web")).unwrap_err();
    assert!(matches!(second, RegistryError::NameInUse { id, .. } if first.id.starts_with(&id)));
    registry.remove(first).unwrap();
    registry.remove(registry.create(Some("web")).unwrap()).unwrap();
    assert_eq!(left_behind(&registry), 0);
}

#[test]
fn what_a_killed_keeper_left_is_swept_and_its_name_free_again() {
    let (_dir, registry) = registry();
    let killed = registry.create(Some("web")).unwrap();
    write_state(&killed, Status::Running, true);
    drop(killed);
    let before_its_state = registry.create(None).unwrap();
    drop(before_its_state);
    let next = registry.create(Some("web")).unwrap();
    write_state(&next, Status::Running, true);
    registry.sweep().unwrap();
    assert_eq!(registry.list().unwrap().len(), 1);
    registry.remove(next).unwrap();
    assert_eq!(left_behind(&registry), 0);
}

#[test]
fn a_killed_keepers_record_tells_so_where_it_is_kept() {
    let (_dir, registry) = registry();
    let kept = registry.create(Some("web")).unwrap();
    write_state(&kept, Status::Running, false);
    assert_eq!(registry.find("web").unwrap().state.status, Status::Running);
    drop(kept);
    assert_eq!(registry.find("web").unwrap().state.exit_code, Some(137));
    registry.sweep().unwrap();
    assert_eq!(registry.find("web").unwrap().state.status, Status::Exited);
}

#[test]
fn containers_are_found_by_name_and_by_the_beginning_of_their_id() {
    let (_dir, registry) = registry();
    let kept = registry.create(Some("web")).unwrap();
    write_state(&kept, Status::Running, true);
    assert_eq!(registry.find("web").unwrap().state.id, kept.id);
    assert_eq!(registry.find(&kept.id[..5]).unwrap().state.id, kept.id);
    for absent in ["", "we", "../web", "zz", "/"] {
        assert!(matches!(registry.find(absent), Err(RegistryError::NotFound(_))), "{absent}");
    }
}

#[test]
fn names_that_could_be_paths_are_refused() {
    let (_dir, registry) = registry();
    for name in ["", ".", "..", "a/b", "-a", "a b", &"a".repeat(129)] {
        assert!(matches!(registry.create(Some(name)), Err(RegistryError::InvalidName(_))));
    }
}

#[test]
fn many_at_once_get_folders_and_names_of_their_own() {
    let (_dir, registry) = registry();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let kept = registry.create(None).unwrap();
                    write_state(&kept, Status::Created, true);
                    registry.sweep().unwrap();
                    assert!(State::read(&kept.folder.state()).is_ok());
                    registry.remove(kept).unwrap();
                }
            });
        }
    });
    assert_eq!(left_behind(&registry), 0);
}

#[test]
fn one_that_nobody_has_started_stays_and_can_be_kept_again() {
    let (_dir, registry) = registry();
    let kept = registry.create(Some("web")).unwrap();
    let state = State::new(kept.id.clone(), kept.name.clone(), "i".into(), vec![]);
    state.write(&kept.folder.state()).unwrap();
    let id = kept.id.clone();
    registry.rest(kept).unwrap();
    registry.sweep().unwrap();
    assert_eq!(registry.find("web").unwrap().state.status, Status::Created);
    let kept = registry.reopen(&id).unwrap();
    assert!(!kept.fresh);
    assert!(matches!(registry.reopen(&id), Err(RegistryError::Kept(name)) if name == "web"));
    let entry = registry.find("web").unwrap();
    assert!(matches!(registry.remove_entry(&entry), Err(RegistryError::Kept(_))));
    drop(kept);
    registry.remove_entry(&entry).unwrap();
    assert!(matches!(registry.find("web"), Err(RegistryError::NotFound(_))));
}

#[test]
fn a_container_has_its_new_name_and_the_old_one_is_free() {
    let (_dir, registry) = registry();
    let [web, other] = ["web", "other"].map(|name| registry.create(Some(name)).unwrap());
    for kept in [&web, &other] {
        write_state(kept, Status::Running, false);
    }
    let entry = registry.find("web").unwrap();
    assert!(matches!(registry.rename(&entry, "other"), Err(RegistryError::NameInUse { .. })));
    assert!(matches!(registry.rename(&entry, "a/b"), Err(RegistryError::InvalidName(_))));
    registry.rename(&entry, "www").unwrap();
    assert_eq!(registry.find("www").unwrap().state.id, web.id);
    assert_eq!(registry.find(&web.id).unwrap().state.name, "www");
    assert!(matches!(registry.find("web"), Err(RegistryError::NotFound(_))));
    registry.create(Some("web")).unwrap();
}

#[test]
fn a_damaged_container_is_told_and_set_aside() {
    let (_dir, registry) = registry();
    let kept = registry.create(Some("web")).unwrap();
    fs::write(kept.folder.state(), "{").unwrap();
    let (entries, damaged) = registry.look().unwrap();
    assert_eq!((entries.len(), damaged.len(), damaged[0].id.as_str()), (0, 1, kept.id.as_str()));
    let id = kept.id.clone();
    drop(kept);
    assert!(matches!(registry.find("web"), Err(RegistryError::State(_))));
    registry.sweep().unwrap();
    assert!(registry.places.damaged().join(id).join("state.json").exists());
    assert!(matches!(registry.find("web"), Err(RegistryError::NotFound(_))));
    assert!(registry.look().unwrap().1.is_empty());
}
