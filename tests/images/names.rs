//! `ampoule image ls` and `ampoule image rm`.

use serde_json::Value;

use crate::lab::Lab;

/// A store with the image `box:1`; its id.
fn with_box() -> (Lab, String) {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let id = lab.ampoule.ok(&["image", "ls", "-q", "--no-trunc"]).trim().to_owned();
    (lab, id)
}

#[test]
fn the_list_is_a_table_ids_or_json() {
    let (lab, id) = with_box();
    let short = &id["sha256:".len()..][..12];
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]), format!("{short}\n"));
    let table = lab.ampoule.ok(&["image", "ls"]);
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    assert_eq!((lines.len(), &lines[1][..3]), (2, &["box", "1", short][..]));
    assert_eq!(lab.ampoule.ok(&["images"]), table);
    let json = lab.ampoule.ok(&["image", "ls", "--format", "json"]);
    let row: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&row["Repository"], &row["Tag"], &row["ID"]),
        (&"box".into(), &"1".into(), &short.into())
    );
    assert_eq!(row["CreatedAt"], "1970-01-01T00:00:00Z");
}

#[test]
fn an_image_goes_by_its_name_or_its_id() {
    let (lab, id) = with_box();
    let gone = format!("Untagged: box:1\nDeleted: {id}\n");
    assert_eq!(lab.ampoule.ok(&["image", "rm", "box:1"]), gone);
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]), "");
    for text in [id.as_str(), &id["sha256:".len()..], &id["sha256:".len()..][..12]] {
        lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
        assert_eq!(lab.ampoule.ok(&["image", "rm", text]), gone, "{text}");
    }
    assert!(!lab.path("store/images").join(&id["sha256:".len()..]).exists());
    assert_eq!(lab.staging(), 0);
}

#[test]
fn one_name_of_several_goes_alone() {
    let (lab, id) = with_box();
    let layer = lab.text("small-layer.tar");
    let again = lab.pack("again.tar", &["--name", "box:2"], &[&layer]);
    lab.load(&again).gives(0, "Loaded image: box:2\n");
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]).lines().count(), 1);
    assert_eq!(lab.ampoule.ok(&["image", "rm", "box:1"]), "Untagged: box:1\n");
    let last = format!("Untagged: box:2\nDeleted: {id}\n");
    assert_eq!(lab.ampoule.ok(&["image", "rm", "box:2"]), last);
}

#[test]
fn an_image_in_use_stays_until_it_is_let_go() {
    let (lab, _) = with_box();
    let image = lab.store().get("box:1").unwrap();
    let stored = lab.stored();
    lab.ampoule.output(&["image", "rm", "-f", "box:1"]).fails(125, &["box:1", "in use"]);
    assert_eq!(lab.stored(), stored);
    drop(image);
    lab.ampoule.ok(&["image", "rm", "box:1"]);
}

#[test]
fn an_unknown_image_is_named_and_does_not_keep_the_others() {
    let (lab, _) = with_box();
    let done = lab.ampoule.output(&["image", "rm", "no-such", "box:1", "NOT A NAME"]);
    done.fails(125, &["no-such", "NOT A NAME"]);
    assert!(done.stdout.contains("Untagged: box:1"), "{done:?}");
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]), "");
}

#[test]
fn images_are_shown_as_a_template_says() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let shown = |args: &[&str]| lab.ampoule.ok(args);
    let format = "{{.Repository}}:{{.Tag}} {{len .ID}}";
    assert_eq!(shown(&["image", "ls", "--format", format]), "box:1 12\n");
    let format = "table {{.Repository}}\\t{{.Tag}}";
    assert_eq!(shown(&["images", "--format", format]), "REPOSITORY   TAG\nbox          1\n");
    let inspected = |format| shown(&["image", "inspect", "-f", format, "box:1"]);
    assert_eq!(inspected("{{join .RepoTags \",\"}} {{.Os}}"), "box:1 linux\n");
    assert_eq!(inspected("{{eq .ID .Id}} {{slice .ID 0 7}}"), "true sha256:\n");
    for (format, words) in [
        ("{{.Repo}}", "there is no field Repo: there are CreatedAt, CreatedSince, Digest, ID,"),
        ("{{.Tag", "format:1:"),
        ("tabel", "is no format"),
    ] {
        lab.ampoule.output(&["image", "ls", "--format", format]).fails(125, &[words]);
    }
}
