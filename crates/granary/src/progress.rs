//! Progress on standard error: bars with rates on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows what a command does.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
}

/// One step that counts up to a known number, or to an unknown one.
#[derive(Debug)]
pub(crate) struct Step {
    bar: ProgressBar,
    name: String,
    terminal: bool,
}

impl Progress {
    /// Looks whether anybody watches.
    pub(crate) fn new() -> Self {
        Self { terminal: stderr().is_terminal() }
    }

    /// Says one thing.
    pub(crate) fn say(&self, text: &str) {
        // Progress that nobody can read any more is no reason to stop.
        let _ = writeln!(stderr(), "{text}");
    }

    /// A step of `total` things called `things`, with a bar and a rate.
    pub(crate) fn count(&self, name: &str, total: usize, things: &str) -> Step {
        let template =
            format!("{{msg:<26}} {{bar:30}} {{human_pos:>7}} of {{human_len}} {things}  {{per_sec:0}}  eta {{eta}}");
        self.step(name, ProgressBar::new(total as u64), &template)
    }

    /// A step of so many whole seconds.
    pub(crate) fn time(&self, name: &str, seconds: u64) -> Step {
        self.step(name, ProgressBar::new(seconds), "{msg:<26} {bar:30} {pos} of {len} s  {prefix}")
    }

    /// A step that takes as long as it takes.
    pub(crate) fn wait(&self, name: &str) -> Step {
        self.step(name, ProgressBar::new_spinner(), "{msg:<26} {spinner} {elapsed}")
    }

    fn step(&self, name: &str, bar: ProgressBar, template: &str) -> Step {
        if self.terminal {
            let style = ProgressStyle::with_template(template).expect("the templates are ours");
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            self.say(&format!("{name} ..."));
        }
        Step { bar, name: name.to_owned(), terminal: self.terminal }
    }
}

impl Step {
    /// That many more are done. Elsewhere than on a terminal, every tenth of the whole is a line.
    pub(crate) fn add(&self, count: usize) {
        let before = self.bar.position();
        self.bar.inc(count as u64);
        let Some(total) = self.bar.length().filter(|&total| total > 0 && !self.terminal) else { return };
        let (tenths_before, tenths) = (before * 10 / total, self.bar.position() * 10 / total);
        if tenths > tenths_before {
            let _ = writeln!(stderr(), "{}: {}0 %, {:.0}/s", self.name, tenths, self.bar.per_sec());
        }
    }

    /// So much is done by now, with a note about it. Elsewhere than on a terminal, every tenth of the whole is a line.
    pub(crate) fn reach(&self, position: u64, note: &str) {
        let before = self.bar.position();
        self.bar.set_prefix(note.to_owned());
        self.bar.set_position(position);
        let Some(total) = self.bar.length().filter(|&total| total > 0 && !self.terminal) else { return };
        let (tenths_before, tenths) = (before * 10 / total, position * 10 / total);
        if tenths > tenths_before {
            let _ = writeln!(stderr(), "{}: {tenths}0 %, {note}", self.name);
        }
    }

    /// The step is over; `result` stays on the screen.
    pub(crate) fn done(self, result: &str) {
        self.bar.finish_and_clear();
        let _ = writeln!(stderr(), "{:<26} {result}", self.name);
    }
}
