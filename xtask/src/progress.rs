//! Progress of long steps: a spinner or a bar on a terminal, a plain line where there is none.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A step that is under way.
pub struct Step {
    bar: Option<ProgressBar>,
    what: String,
}

impl Step {
    /// A step without a measure.
    pub fn start(what: impl Into<String>) -> Step {
        Step::new(what.into(), None)
    }

    /// A step that counts to `length` bytes.
    pub fn bytes(what: impl Into<String>, length: u64) -> Step {
        Step::new(
            what.into(),
            Some((
                length,
                "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {eta}",
            )),
        )
    }

    /// A step that counts to 100 percent.
    pub fn percent(what: impl Into<String>) -> Step {
        Step::new(
            what.into(),
            Some((100, "{spinner} {msg} [{bar:30}] {pos}%")),
        )
    }

    fn new(what: String, measure: Option<(u64, &str)>) -> Step {
        if !std::io::stderr().is_terminal() {
            eprintln!("{what} ...");
            return Step { bar: None, what };
        }
        let bar = measure.map_or_else(ProgressBar::new_spinner, |(length, _)| {
            ProgressBar::new(length)
        });
        let template = measure.map_or("{spinner} {msg} {elapsed}", |(_, template)| template);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Step {
            bar: Some(bar),
            what,
        }
    }

    /// Says how far the step is.
    pub fn at(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    /// Says that the step is done.
    pub fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            eprintln!("{}: done", self.what);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.finish_and_clear();
        }
    }
}
