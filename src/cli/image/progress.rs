//! How far a pull or a push is: a bar for each layer on a terminal, a line for each elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::super::say;
use crate::image::pull::Event;
use crate::image::registry::Blob;
use crate::image::{Digest, Progress};

/// Where lines go that are no bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// nowhere
    Hidden,
    /// to standard output, as docker's
    Output,
    /// to standard error: standard output is the container's
    Errors,
}

/// Bars and lines.
#[derive(Debug)]
pub struct Shown {
    lines: Lines,
    bars: MultiProgress,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
    whole: ProgressBar,
}

impl Shown {
    /// Nothing yet. indicatif draws on standard error, and only on a terminal.
    pub fn new(lines: Lines) -> Self {
        let bars = MultiProgress::new();
        if lines == Lines::Hidden {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let (layers, whole) = (Mutex::default(), ProgressBar::hidden());
        Self { lines, bars, layers, whole }
    }

    /// A line of text.
    pub fn line(&self, text: &str) {
        self.bars.suspend(|| match self.lines {
            Lines::Hidden => {}
            Lines::Output => say(text),
            // Nobody is left to tell where standard error is closed.
            Lines::Errors => drop(writeln!(io::stderr(), "{text}")),
        });
    }

    /// What became of a layer: a line, above the bars of those that are on their way.
    pub fn done(&self, digest: Digest, words: &str) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = layers.remove(&digest) {
            bar.finish_and_clear();
        }
        drop(layers);
        self.line(&format!("{}: {words}", short(digest)));
    }

    /// Bars for these layers.
    pub fn layers(&self, blobs: &[Blob]) {
        if !io::stderr().is_terminal() || self.lines == Lines::Hidden {
            return;
        }
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for blob in blobs {
            layers.entry(blob.digest).or_insert_with(|| {
                let bar = self.bars.add(ProgressBar::new(blob.size));
                bar.set_style(style("{msg}"));
                bar.set_message(format!("{}: Waiting", short(blob.digest)));
                bar
            });
        }
    }

    /// So much of a layer has gone its way.
    pub fn moved(&self, digest: Digest, bytes: u64, word: &str) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = layers.get(&digest) else { return };
        let text = format!("{}: {word}", short(digest));
        if bar.message() != text {
            bar.set_style(style("{msg} [{bar:30}] {bytes}/{total_bytes}"));
            bar.set_message(text);
        }
        bar.set_position(bytes);
    }

    /// What happens in a pull.
    pub fn pulling(&self, event: Event<'_>) {
        match event {
            Event::Layers(blobs) => self.layers(blobs),
            Event::There(digest) => self.done(digest, "Already exists"),
            Event::Waiting(_) => {}
            Event::Fetched(digest, bytes) => self.moved(digest, bytes, "Downloading"),
            Event::Done(digest) => self.done(digest, "Pull complete"),
            Event::Damaged(digest) => {
                self.line(&format!("{}: Damaged: set aside, and fetched again", short(digest)));
            }
            Event::Unpacking(Progress::Layer { number, layers, bytes, size }) => {
                if self.whole.is_hidden() && self.whole.length().is_none() {
                    self.bars.add(self.whole.clone());
                }
                let bar = &self.whole;
                bar.set_style(style("unpacking {msg} [{bar:30}] {bytes}/{total_bytes}"));
                bar.enable_steady_tick(Duration::from_millis(200));
                bar.set_message(format!("{number}/{layers}"));
                bar.set_length(size);
                bar.set_position(bytes);
            }
            Event::Unpacking(Progress::Archive { .. }) => {}
        }
    }

    /// Takes away what only said how far it is.
    pub fn end(&self) {
        self.whole.finish_and_clear();
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bar) in layers.drain() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are this file's own.
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// The beginning of a digest, as docker shows layers.
pub fn short(digest: Digest) -> String {
    digest.hex().chars().take(12).collect()
}
