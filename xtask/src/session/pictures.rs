//! A session's pictures: those that the script asks for, and how long Umbra may take for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{ANSWER, Com1, SETTLE, Session, TICK};
use crate::control::{Picture, Request};

/// How long a picture that is waited for is not looked at again.
const LOOK: Duration = Duration::from_millis(500);
/// How long what blinks has to change: several times its period.
const BLINK: Duration = Duration::from_secs(5);

impl Session {
    /// Whether the picture has not changed for `time`: asks from time to time.
    pub(super) fn steady(&mut self, time: Duration, console: &mut dyn FnMut(Com1)) -> Result<bool> {
        // The guest stands while a picture is sent: not too often.
        self.drain(SETTLE.max(time / 10), console)?;
        let picture = self.take_picture(console)?;
        match &self.steady {
            Some((last, since)) if *last == picture => {
                let steady = since.elapsed() >= time;
                if steady {
                    self.steady = None;
                }
                Ok(steady)
            }
            _ => {
                self.steady = Some((picture, Instant::now()));
                Ok(false)
            }
        }
    }

    /// Whether the picture is such as `test` says: asks from time to time.
    pub(super) fn shows(
        &mut self,
        test: &dyn Fn(&Picture) -> bool,
        console: &mut dyn FnMut(Com1),
    ) -> Result<bool> {
        // The guest stands while a picture is sent: not too often.
        self.drain(LOOK, console)?;
        if self.closed {
            return Ok(false);
        }
        let picture = self.take_picture(console)?;
        Ok(test(&picture))
    }

    /// Takes a picture, and another one with the other phase of what `blinks`.
    pub(super) fn look(&mut self, blinks: bool, console: &mut dyn FnMut(Com1)) -> Result<()> {
        self.drain(SETTLE, console)?;
        let first = self.take_picture(console)?;
        self.pictures.push(first.clone());
        if !blinks {
            return Ok(());
        }
        let since = Instant::now();
        loop {
            let picture = self.take_picture(console)?;
            if picture != first {
                self.pictures.push(picture);
                return Ok(());
            }
            ensure!(since.elapsed() < BLINK, "nothing blinks on the screen");
        }
    }

    fn take_picture(&mut self, console: &mut dyn FnMut(Com1)) -> Result<Picture> {
        self.send(&Request::Screenshot)?;
        let mut silence = Silence::new(&self.heard);
        loop {
            self.attend(TICK, console)?;
            if let Some(picture) = self.picture.take() {
                return Ok(picture);
            }
            ensure!(
                !self.closed && silence.time() < ANSWER,
                "Umbra did not send the picture"
            );
        }
    }
}

/// How long nothing has come.
pub(super) struct Silence {
    heard: Arc<AtomicU64>,
    last: u64,
    since: Instant,
}

impl Silence {
    pub(super) fn new(heard: &Arc<AtomicU64>) -> Silence {
        Silence {
            heard: heard.clone(),
            last: heard.load(Ordering::Relaxed),
            since: Instant::now(),
        }
    }

    pub(super) fn time(&mut self) -> Duration {
        let now = self.heard.load(Ordering::Relaxed);
        if now != self.last {
            self.last = now;
            self.since = Instant::now();
        }
        self.since.elapsed()
    }
}
