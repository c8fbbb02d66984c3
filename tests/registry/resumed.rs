//! Pulls that are cut, killed, or meet each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::{fs, thread};

use ampoule::image::Digest;
use nix::sys::signal::Signal;

use crate::fake::{Fake, Reply, Served};
use crate::lab::{Lab, listing};
use crate::support::{Finished, signal};

#[test]
fn a_connection_that_is_cut_goes_on_where_it_was() {
    let lab = Lab::new();
    let image = Served::large(1 << 20);
    let blob = image.layers[0].clone();
    let digest = Digest::of(&blob).to_string();
    let fake = {
        let digest = digest.clone();
        Fake::with(&image, move |request| {
            if !request.path().ends_with(&digest) {
                return None;
            }
            // A part of what is left, each time, and then no more.
            let from = request.from().unwrap_or(0);
            let end = (from + (300 << 10)).min(blob.len());
            let length = (blob.len() - from).to_string();
            let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            let headers = [("Content-Length", length.as_str()), ("Content-Range", range.as_str())];
            let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
            Some(Reply::new(status, &headers, &blob[from..end]))
        })
    };
    lab.ampoule.ok(&["pull", &fake.name("box")]);
    assert_eq!(fake.count(&digest), 4, "{:?}", fake.requests());
    let stored = fs::read(lab.path("store/blobs/sha256").join(&digest["sha256:".len()..])).unwrap();
    assert_eq!(stored, image.layers[0]);
}

#[test]
fn a_killed_pull_leaves_no_image_and_is_gone_on_with() {
    let lab = Lab::new();
    let image = Served::large(1 << 20);
    let blob = image.layers[0].clone();
    let digest = Digest::of(&blob).to_string();
    let (told, half_sent) = mpsc::channel();
    let first = AtomicUsize::new(0);
    let fake = {
        let digest = digest.clone();
        Fake::with(&image, move |request| {
            let is_first =
                request.path().ends_with(&digest) && first.fetch_add(1, Ordering::SeqCst) == 0;
            if !is_first {
                return None;
            }
            told.send(()).unwrap();
            let length = blob.len().to_string();
            let mut reply =
                Reply::new("200 OK", &[("Content-Length", &length)], &blob[..700 << 10]);
            reply.hang = true;
            Some(reply)
        })
    };
    let name = fake.name("box");
    let mut pull = lab.ampoule.spawn(&["pull", &name]);
    half_sent.recv().unwrap();
    let partial =
        lab.path("store/downloads").join(format!("{}.partial", &digest["sha256:".len()..]));
    // All that was sent has been written: the events of its file say when.
    wait_for_size(&partial, 700 << 10);
    signal(&pull, Signal::SIGKILL);
    pull.wait().unwrap();
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]), "");
    assert_eq!(listing(&lab.path("store/images")).len(), 0);
    lab.ampoule.ok(&["pull", &name]);
    let asked: Vec<_> = fake
        .requests()
        .into_iter()
        .filter(|request| request.path().ends_with(&digest))
        .map(|request| request.from())
        .collect();
    assert_eq!(asked, [None, Some(700 << 10)]);
    assert!(listing(&lab.path("store/downloads")).is_empty());
}

/// Waits until a file has this size.
fn wait_for_size(path: &std::path::Path, size: u64) {
    use inotify::{Inotify, WatchMask};
    let mut inotify = Inotify::init().unwrap();
    let mask = WatchMask::MODIFY | WatchMask::CREATE;
    inotify.watches().add(path.parent().unwrap(), mask).unwrap();
    while fs::metadata(path).map_or(0, |file| file.len()) < size {
        inotify.read_events_blocking(&mut [0; 4096]).unwrap();
    }
}

#[test]
fn what_is_left_and_wrong_is_fetched_anew() {
    let lab = Lab::new();
    let image = Served::large(200 << 10);
    let digest = Digest::of(&image.layers[0]);
    lab.ampoule.ok(&["image", "ls"]);
    let partial = lab.path("store/downloads").join(format!("{}.partial", digest.hex()));
    fs::write(&partial, [1; 1000]).unwrap();
    let fake = Fake::with(&image, |_| None);
    lab.ampoule.ok(&["pull", &fake.name("box")]);
    assert_eq!(fake.count(&digest.hex()), 2);
    assert!(!partial.exists());
    // And from a server that knows no ranges.
    let lab = Lab::new();
    lab.ampoule.ok(&["image", "ls"]);
    let partial = lab.path("store/downloads").join(format!("{}.partial", digest.hex()));
    fs::write(&partial, &image.layers[0][..1000]).unwrap();
    let blob = image.layers[0].clone();
    let fake = Fake::with(&image, move |request| {
        request.path().contains(&digest.hex()).then(|| Reply::ok(&blob))
    });
    lab.ampoule.ok(&["pull", &fake.name("box")]);
    assert_eq!(fake.count(&digest.hex()), 1);
}

#[test]
fn two_pulls_at_once_download_once() {
    let lab = Lab::new();
    let image = Served::large(1 << 20);
    let blob = image.layers[0].clone();
    let digest = Digest::of(&blob).to_string();
    // The layer comes when both pulls have asked for the configuration.
    let configured = Arc::new((std::sync::Mutex::new(0), std::sync::Condvar::new()));
    let config = Digest::of(&image.config).to_string();
    let fake = {
        let (digest, configured) = (digest.clone(), Arc::clone(&configured));
        Fake::with(&image, move |request| {
            let (count, changed) = &*configured;
            if request.path().ends_with(&config) {
                *count.lock().unwrap() += 1;
                changed.notify_all();
            }
            if request.path().ends_with(&digest) {
                let count = count.lock().unwrap();
                drop(changed.wait_while(count, |count| *count < 2).unwrap());
            }
            None
        })
    };
    let name = fake.name("box");
    let pulls = [(); 2].map(|()| lab.ampoule.spawn(&["pull", "-q", &name]));
    let ends = pulls.map(|pull| thread::spawn(|| Finished::of(pull.wait_with_output().unwrap())));
    for end in ends {
        end.join().unwrap().gives(0, &format!("{name}:latest\n"));
    }
    assert_eq!(fake.count(&digest), 1);
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]).lines().count(), 1);
    assert_eq!(lab.staging(), 0);
}
