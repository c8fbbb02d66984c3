//! All images of a repository: `--all-tags`.

use serde_json::json;

use crate::fake::{Fake, Reply, Served};
use crate::lab::{Lab, layer};
use crate::real::Real;

#[test]
fn all_tags_go_to_a_registry_and_come_back() {
    let (from, to) = (Lab::new(), Lab::new());
    let registry = Real::plain(&from.path("registry"));
    let name = registry.name("team/box");
    for tag in ["1", "2", "latest"] {
        let name = format!("{name}:{tag}");
        let layer = from.file("layer.tar", &layer(&[("tag", tag.as_bytes())]));
        let archive = from.pack("image.tar", &["--name", &name], &[&layer]);
        from.load(&archive).gives(0, &format!("Loaded image: {name}\n"));
    }
    // Others' names are theirs.
    from.ampoule.ok(&["tag", &format!("{name}:1"), &registry.name("team/boxes:3")]);
    let pushed = from.ampoule.ok(&["push", "-a", &name]);
    assert!(
        ["1", "2", "latest"].iter().all(|tag| pushed.contains(&format!("{tag}: digest: sha256:")))
    );
    let pulled = to.ampoule.ok(&["pull", "--all-tags", &name]);
    assert!(pulled.ends_with(&format!("{name}\n")), "{pulled}");
    for tag in ["1", "2", "latest"] {
        let name = format!("{name}:{tag}");
        assert_eq!(from.store().get(&name).unwrap().id, to.store().get(&name).unwrap().id);
    }
    to.ampoule.output(&["pull", &registry.name("team/boxes:3")]).fails(125, &["does not have"]);
    let other = registry.name("team/none");
    from.ampoule.output(&["push", "-a", &other]).fails(125, &["no image is called", &other]);
    to.ampoule.output(&["pull", "-a", &other]).fails(125, &["does not have the tags of"]);
    for verb in ["push", "pull"] {
        let tagged = format!("{name}:1");
        from.ampoule.output(&[verb, "-a", &tagged]).fails(125, &["cannot be used with --all-tags"]);
    }
}

/// A registry that answers this when it is asked for tags.
fn lists(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Fake {
    Fake::with(&Served::small(), move |request| {
        request.path().contains("/tags/list").then(|| answer(request.path()))
    })
}

fn page(tags: &[&str], next: Option<&str>) -> Reply {
    let body = json!({"name": "box", "tags": tags}).to_string();
    let link = next.map(|next| format!("<{next}>; rel=\"next\""));
    let link = link.as_deref().map(|link| ("Link", link));
    Reply::new("200 OK", link.as_slice(), body.as_bytes())
}

#[test]
fn a_list_in_several_answers_is_read_to_its_end_and_what_is_no_image_keeps_no_other() {
    let lab = Lab::new();
    let registry = lists(|path| match path.contains("last=") {
        false => page(&["gone"], Some("/v2/box/tags/list?last=gone&n=1")),
        true => page(&["latest"], None),
    });
    let done = lab.ampoule.output(&["pull", "-a", &registry.name("box")]);
    done.fails(125, &["does not have", "box:gone"]);
    assert!(lab.store().get(&registry.name("box:latest")).is_ok());
    let first = registry.requests().into_iter().find(|request| request.path().contains("tags"));
    assert_eq!(first.unwrap().path(), "/v2/box/tags/list?n=1000");
}

#[test]
fn lists_that_no_registry_gives_are_refused() {
    let elsewhere = Fake::new(|_| page(&["latest"], None));
    let other = format!("http://{}/v2/box/tags/list", elsewhere.host);
    let many: Vec<String> = (0..2000).map(|tag| format!("t{tag}")).collect();
    type Answer = Box<dyn Fn(&str) -> Reply + Send + Sync>;
    let answers: [(Answer, &str); 7] = [
        (Box::new(|_| page(&["latest"], Some("/v2/box/tags/list"))), "have no end"),
        (
            Box::new(move |_| {
                let tags: Vec<&str> = many.iter().map(String::as_str).collect();
                page(&tags, Some("/v2/box/tags/list"))
            }),
            "have no end",
        ),
        (Box::new(move |_| page(&["latest"], Some(&other))), "goes on elsewhere"),
        (Box::new(|_| page(&["latest@sha256:0"], None)), "cannot be understood"),
        (Box::new(|_| page(&["../../x"], None)), "cannot be understood"),
        (Box::new(|_| page(&[], None)), "has no tags"),
        (Box::new(|_| Reply::ok(b"[]")), "is not valid"),
    ];
    for (answer, words) in answers {
        let lab = Lab::new();
        let registry = lists(answer);
        lab.ampoule.output(&["pull", "-a", &registry.name("box")]).fails(125, &[words]);
        assert_eq!(lab.store().list().unwrap().len(), 0);
    }
    assert!(elsewhere.requests().is_empty());
}
