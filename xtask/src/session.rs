//! One run's conversation with Umbra over the control channel, from the first byte to the goodbye.
//!
//! It is given any pair of byte streams, so that tests can play Umbra's part.

mod pictures;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use protocol::VERSION;

use self::pictures::Silence;
use crate::control::{Decoder, Event, Message, Picture, Request, Said};
use crate::debugger::{self, Debuggers};
use crate::emulator::{self, Channel};
use crate::keys;
use crate::monitor::Monitor;
use crate::mouse::{self, Hand, Motion};
use crate::outcome::{Interrupted, Refused, interrupted};
use crate::script::{Step, Watch};
use crate::trace;

/// Between two keys, so that a slow guest does not lose any.
pub const KEY_PAUSE: Duration = Duration::from_millis(30);
/// Between two movements of the mouse, and the least time for which a button is held or not.
pub const STRIDE_PAUSE: Duration = Duration::from_millis(10);
/// See [`STRIDE_PAUSE`].
pub const CLICK_PAUSE: Duration = Duration::from_millis(60);
/// After keys that end a script, so that the guest can answer them before the picture is taken.
const SETTLE: Duration = Duration::from_millis(1500);
/// How long Umbra may be silent before it has answered a question: a large picture takes its time on a serial port.
const ANSWER: Duration = Duration::from_secs(20);
/// How long Umbra has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// How much that was not understood is kept.
const SKIPPED: usize = 8;
/// How much of what was said at breaks is kept.
const BREAKS: usize = 64;
/// How often the loop looks for an interruption.
const TICK: Duration = Duration::from_millis(50);

/// What a session is to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// How many virtual machines there are; 0 stands for one too.
    pub vms: usize,
    /// Texts to wait for, keys to type and movements of the mouse.
    pub script: Vec<Step>,
    /// When to give up.
    pub timeout: Option<Duration>,
    /// Whether to ask for a picture at the end.
    pub screenshot: bool,
    /// Whether to ask for a report at the end.
    pub report: bool,
    /// Where the trace goes, if there is one.
    pub trace: Option<PathBuf>,
    /// Whether a guest that says that its system has crashed ends the session.
    pub ends_on_panic: bool,
    /// Whether a guest that has come to one of its breaks ends the session.
    pub ends_on_break: bool,
    /// Whether a person sees a window and may close it.
    pub window: bool,
    /// Whether what is typed at the terminal goes to the guest's COM1.
    pub interactive: bool,
    /// Where debuggers come to which virtual machine.
    pub debuggers: Vec<debugger::Port>,
}

/// What came of a session.
#[derive(Debug)]
pub struct Summary {
    /// Whether the script was fulfilled or the guest powered off, and otherwise why not.
    pub result: Result<Ending>,
    /// The picture, if one was asked for and came.
    pub picture: Option<Picture>,
    /// The pictures that the script asked for.
    pub pictures: Vec<Picture>,
    /// The outer machine's screen at that moment, if there is a monitor.
    pub outer: Option<Picture>,
    /// The report as JSON, if one was asked for and came. That of several virtual machines is an object whose member `vms` has them.
    pub report: Option<String>,
    /// The last lines on COM1 of the machine that has the focus.
    pub console: Vec<String>,
    /// The rows of its text screen.
    pub screen: Vec<String>,
    /// How often the guest's machine was reset.
    pub resets: usize,
    /// What Umbra said and this tool has not understood: the first of it.
    pub skipped: Vec<String>,
    /// What it said at breaks: the first of it.
    pub breaks: Vec<String>,
}

/// How a successful session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest switched its machine off, or all guests theirs.
    PoweredOff,
    /// The last step of the script was done.
    ScriptDone,
    /// A guest has come to one of its breaks.
    Broke,
    /// The window was closed, and no text was being waited for.
    WindowClosed,
}

/// What a guest has written to its COM1.
#[derive(Debug, Clone, Copy)]
pub struct Com1<'a> {
    /// The number of its virtual machine, from 1.
    pub vm: usize,
    /// Whether that has the focus.
    pub focus: bool,
    /// What was written.
    pub bytes: &'a [u8],
}

/// What a person does at once.
enum Deed {
    /// Presses and releases a key, or some together.
    Keys(Vec<u8>),
    Motion(Motion),
}

enum Arrival {
    Said(Said),
    Closed,
}

/// What is known of a virtual machine.
struct Machine {
    watch: Watch,
    /// Whether it has been switched off.
    off: bool,
    /// Whether the guest has suspended it.
    suspended: bool,
}

/// A conversation with Umbra.
pub struct Session {
    to: emulator::Sender,
    arrivals: Receiver<Arrival>,
    /// Bytes that have come from Umbra.
    heard: Arc<AtomicU64>,
    script: Vec<Step>,
    /// What the virtual machines have shown.
    machines: Vec<Machine>,
    /// The machine that the last message was about, and the one that has the focus, by index.
    about: usize,
    focus: usize,
    resets: usize,
    skipped: Vec<String>,
    breaks: Vec<String>,
    started: bool,
    closed: bool,
    picture: Option<Picture>,
    pictures: Vec<Picture>,
    outer: Option<Picture>,
    reports: Vec<String>,
    monitor: Option<Monitor>,
    /// What moves mouse and tablet.
    hand: Hand,
    /// Events that came while the script waited for something else, and the machines that they are about.
    events: VecDeque<(usize, Event)>,
    /// When the script goes on.
    awake: Option<Instant>,
    debuggers: Option<Debuggers>,
    trace: Option<trace::File>,
    /// A picture, and since when it has been shown.
    steady: Option<(Picture, Instant)>,
}

impl Session {
    /// Starts to listen on `channel`.
    pub fn new(channel: Channel, script: &[Step]) -> Session {
        let (sender, arrivals) = mpsc::channel();
        let from = channel.from;
        let heard = Arc::new(AtomicU64::new(0));
        let counted = heard.clone();
        thread::spawn(move || listen(from, &sender, &counted));
        Session {
            to: channel.to,
            arrivals,
            heard,
            script: script.to_vec(),
            machines: Vec::new(),
            about: 0,
            focus: 0,
            resets: 0,
            skipped: Vec::new(),
            breaks: Vec::new(),
            started: false,
            closed: false,
            picture: None,
            pictures: Vec::new(),
            outer: None,
            reports: Vec::new(),
            monitor: None,
            hand: Hand::default(),
            events: VecDeque::new(),
            awake: None,
            debuggers: None,
            trace: None,
            steady: None,
        }
    }

    /// Uses the outer machine's keyboard and mouse and looks at its screen by `monitor`.
    pub fn with_monitor(self, monitor: Monitor) -> Session {
        Session {
            monitor: Some(monitor),
            ..self
        }
    }

    /// A handle that sends `Input` frames from another thread.
    pub fn input(&self) -> impl FnMut(&[u8]) -> bool + Send + 'static {
        let to = self.to.clone();
        move |bytes: &[u8]| to.send(&Request::Input(bytes.to_vec()).to_bytes()).is_ok()
    }

    /// Carries out `plan`, giving what the guests write to COM1 to `console` as it comes.
    pub fn run(mut self, plan: &Plan, console: &mut dyn FnMut(Com1)) -> Summary {
        let opened = plan.trace.as_deref().map(trace::File::create).transpose();
        let mut result = opened.and_then(|trace| {
            self.trace = trace;
            self.follow(plan, console)
        });
        if !self.closed && !interrupted() {
            // An Umbra that has refused to run has nothing to tell but goodbye.
            let refused = result.as_ref().is_err_and(anyhow::Error::is::<Refused>);
            let nothing = Plan::default();
            let asked = self.ask(if refused { &nothing } else { plan }, console);
            if result.is_ok()
                && let Err(error) = asked
            {
                result = Err(error);
            }
        }
        if let Some(trace) = self.trace.take()
            && let Err(error) = trace.end()
            && result.is_ok()
        {
            result = Err(error);
        }
        let focus = self.focus;
        let watch = &self.machine(focus).watch;
        Summary {
            result,
            console: watch.console_tail(30),
            screen: watch.screen_rows(),
            picture: self.picture,
            pictures: self.pictures,
            outer: self.outer,
            report: match self.reports.len() {
                0 | 1 => self.reports.pop(),
                _ => Some(format!("{{\"vms\": [{}]}}", self.reports.join(", "))),
            },
            resets: self.resets,
            skipped: self.skipped,
            breaks: self.breaks,
        }
    }

    /// The virtual machine of this index.
    fn machine(&mut self, index: usize) -> &mut Machine {
        while self.machines.len() <= index {
            self.machines.push(Machine {
                watch: Watch::new(&self.script),
                off: false,
                suspended: false,
            });
        }
        &mut self.machines[index]
    }

    /// Whether the machine that has the focus has shown `text`.
    fn take(&mut self, text: &str) -> bool {
        let focus = self.focus;
        self.machine(focus).watch.take(text)
    }

    /// How many machines have been switched off.
    fn off(&self) -> usize {
        self.machines.iter().filter(|machine| machine.off).count()
    }

    /// Debuggers can come once Umbra can answer.
    fn let_debuggers_in(&mut self, plan: &Plan) -> Result<()> {
        if self.started && self.debuggers.is_none() && !plan.debuggers.is_empty() {
            self.debuggers = Some(Debuggers::listen(&plan.debuggers, &self.to)?);
        }
        Ok(())
    }

    /// Follows the script to its end, to the guest's, or to the deadline.
    fn follow(&mut self, plan: &Plan, console: &mut dyn FnMut(Com1)) -> Result<Ending> {
        let deadline = plan.timeout.map(|timeout| Instant::now() + timeout);
        let mut steps: VecDeque<&Step> = plan.script.iter().collect();
        let waits_for_power_off = plan.script.iter().all(|step| step.waits_for().is_none());
        let mut deeds: VecDeque<Deed> = VecDeque::new();
        let mut next_deed = Instant::now();
        loop {
            self.let_debuggers_in(plan)?;
            while deeds.is_empty()
                && let Some(step) = steps.front()
            {
                match step {
                    Step::Until(text) if self.take(text) => {}
                    Step::Until(_) => break,
                    _ if !self.started => break,
                    Step::UntilPixel(pixel) if self.shows(&|p| pixel.is_in(p), console)? => {}
                    Step::UntilPicture(goal)
                        if self.shows(&|p| *p == *goal.picture, console)? => {}
                    Step::UntilPixel(_) | Step::UntilPicture(_) => break,
                    Step::Sleep(time) => {
                        let end = *self.awake.get_or_insert_with(|| Instant::now() + *time);
                        if Instant::now() < end {
                            break;
                        }
                        self.awake = None;
                    }
                    Step::Type(text) => {
                        deeds.extend(keys::scancodes(text)?.into_iter().map(Deed::Keys))
                    }
                    Step::Focus(number) => {
                        self.focus = number - 1;
                        self.send(&Request::Focus(u8::try_from(*number)?))?;
                    }
                    Step::Mouse(words) => {
                        let movements = mouse::movements(words, &mut self.hand)?;
                        deeds.extend(movements.into_iter().map(Deed::Motion));
                    }
                    Step::Steady(time) if self.steady(*time, console)? => {}
                    Step::Steady(_) => break,
                    Step::Picture { blinks } => self.look(*blinks, console)?,
                }
                steps.pop_front();
                if steps.is_empty() && !waits_for_power_off {
                    self.finish(deeds, console)?;
                    return Ok(Ending::ScriptDone);
                }
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(anyhow!(
                    "gave up after {} seconds{}{}",
                    plan.timeout.unwrap_or_default().as_secs(),
                    missing(&steps),
                    self.sleeper()
                ));
            }
            if now >= next_deed
                && let Some(deed) = deeds.pop_front()
            {
                next_deed = now + self.carry_out(deed)?;
                continue;
            }
            let mut wait = TICK;
            if !deeds.is_empty() {
                wait = wait.min(next_deed.saturating_duration_since(now));
            }
            match self.next_event(wait, console)? {
                Some(Event::PowerOff) if self.off() < plan.vms => {}
                Some(Event::PowerOff) => {
                    let fulfilled = steps.iter().all(|step| match step {
                        Step::Until(text) => self.take(text),
                        _ => false,
                    });
                    return match fulfilled || waits_for_power_off {
                        true => Ok(Ending::PoweredOff),
                        false => Err(anyhow!("the guest powered off{}", missing(&steps))),
                    };
                }
                Some(Event::Fatal(reason)) => {
                    return Err(anyhow!(
                        "the guest's machine{} cannot go on: {reason}",
                        self.which(plan)
                    ));
                }
                Some(Event::Failed(what)) => {
                    return Err(anyhow!("Umbra itself has failed: {what}"));
                }
                Some(Event::Crashed(said)) if plan.ends_on_panic => {
                    return Err(anyhow!(
                        "the guest{} says that its system has crashed: {said}",
                        self.which(plan)
                    ));
                }
                Some(Event::Break(said)) => {
                    eprintln!("\numbra: {}", said.trim_end());
                    if self.breaks.len() < BREAKS {
                        self.breaks.push(said);
                    }
                    if plan.ends_on_break {
                        return Ok(Ending::Broke);
                    }
                }
                Some(Event::Refused(reason)) => return Err(Refused(reason).into()),
                Some(Event::Suspended) if plan.interactive => {
                    eprintln!("\numbra: {}", suspended(&self.which(plan), plan.window));
                }
                Some(Event::Woken) if plan.interactive => {
                    eprintln!("umbra: the guest{} wakes", self.which(plan));
                }
                Some(_) => {}
                None if self.closed && self.started && plan.window && waits_for_power_off => {
                    return Ok(Ending::WindowClosed);
                }
                None if self.closed => {
                    return Err(anyhow!("the emulator ended{}", missing(&steps)));
                }
                None => {}
            }
        }
    }

    /// The number of the machine that the last message was about, if there are several.
    fn which(&self, plan: &Plan) -> String {
        match plan.vms {
            0 | 1 => String::new(),
            _ => format!(" {}", self.about + 1),
        }
    }

    /// That the machine which has the focus is suspended, where it is.
    fn sleeper(&mut self) -> &'static str {
        let focus = self.focus;
        match self.machine(focus).suspended {
            true => "; the guest has suspended its machine",
            false => "",
        }
    }

    /// Carries out what ends a script, and leaves the guest a moment to answer.
    fn finish(&mut self, deeds: VecDeque<Deed>, console: &mut dyn FnMut(Com1)) -> Result<()> {
        let settle = !deeds.is_empty();
        for deed in deeds {
            let pause = self.carry_out(deed)?;
            self.drain(pause, console)?;
        }
        if settle {
            self.drain(SETTLE, console)?;
        }
        Ok(())
    }

    /// Receives for as long as `time` says.
    fn drain(&mut self, time: Duration, console: &mut dyn FnMut(Com1)) -> Result<()> {
        let end = Instant::now() + time;
        while !self.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.attend(left.min(TICK), console)?;
        }
        Ok(())
    }

    /// Takes at most one message. An event waits for the script.
    fn attend(&mut self, wait: Duration, console: &mut dyn FnMut(Com1)) -> Result<()> {
        if let Some(event) = self.receive(wait, console)? {
            self.events.push_back((self.about, event));
        }
        Ok(())
    }

    /// The oldest event that nobody has heard of.
    fn next_event(
        &mut self,
        wait: Duration,
        console: &mut dyn FnMut(Com1),
    ) -> Result<Option<Event>> {
        match self.events.pop_front() {
            Some((about, event)) => {
                self.about = about;
                Ok(Some(event))
            }
            None => self.receive(wait, console),
        }
    }

    /// Asks for the picture and the report, and says goodbye.
    fn ask(&mut self, plan: &Plan, console: &mut dyn FnMut(Com1)) -> Result<()> {
        if plan.screenshot {
            if self.monitor.is_some() {
                // Umbra has to draw on the outer screen first.
                self.drain(SETTLE, console)?;
            }
            self.send(&Request::Screenshot)?;
        }
        if plan.report {
            self.send(&Request::Report)?;
        }
        let mut silence = Silence::new(&self.heard);
        let reports = if plan.report { plan.vms.max(1) } else { 0 };
        while (plan.screenshot && self.picture.is_none()) || self.reports.len() < reports {
            self.receive(TICK, console)?;
            let what = if plan.screenshot && self.picture.is_none() {
                "screenshot"
            } else {
                "report"
            };
            if self.closed || silence.time() >= ANSWER {
                return Err(anyhow!("Umbra did not send the {what}"));
            }
        }
        if plan.screenshot
            && let Some(monitor) = &mut self.monitor
        {
            self.outer = Some(monitor.screen()?);
        }
        if self.send(&Request::Quit).is_ok() {
            let end = Instant::now() + GOODBYE;
            while !self.closed && Instant::now() < end {
                if self.receive(TICK, console)? == Some(Event::Bye) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes at most one message, and gives it back when it is an event.
    fn receive(&mut self, wait: Duration, console: &mut dyn FnMut(Com1)) -> Result<Option<Event>> {
        if interrupted() {
            return Err(Interrupted.into());
        }
        let message = match self.arrivals.recv_timeout(wait) {
            Ok(Arrival::Said(Said::About(about, message))) => {
                self.about = about;
                message
            }
            Ok(Arrival::Said(Said::Skipped(what))) => {
                if self.skipped.len() < SKIPPED {
                    self.skipped.push(what);
                }
                return Ok(None);
            }
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Ok(Arrival::Closed) | Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                return Ok(None);
            }
        };
        match message {
            Message::Console(bytes) => {
                let about = self.about;
                console(Com1 {
                    vm: about + 1,
                    focus: about == self.focus,
                    bytes: &bytes,
                });
                self.machine(about).watch.console(&bytes);
            }
            Message::Text(screen) => {
                let about = self.about;
                self.machine(about).watch.screen(screen);
            }
            Message::Debug(bytes) => {
                if let Some(debuggers) = &self.debuggers {
                    debuggers.answer(u8::try_from(self.about + 1)?, &bytes);
                }
            }
            Message::Trace(chunk) => {
                if let Some(trace) = &mut self.trace {
                    trace.write(u8::try_from(self.about + 1)?, &chunk)?;
                }
            }
            Message::Screenshot(picture) => self.picture = Some(picture),
            Message::Report(json) => self.reports.push(json),
            // No answer: it would come at a moment of its own, and no two runs of a machine that counts instructions would be the same.
            Message::Hello(VERSION) => {}
            Message::Hello(other) => {
                // So that Umbra says it, too.
                self.send(&Request::Hello(VERSION))?;
                return Err(foreign(other).into());
            }
            Message::Event(Event::Ready) if self.started => {
                return Err(anyhow!("Umbra itself was reset and started again"));
            }
            Message::Event(event) => {
                match event {
                    Event::Ready => self.started = true,
                    Event::Reset => {
                        self.resets += 1;
                        let about = self.about;
                        let machine = self.machine(about);
                        (machine.off, machine.suspended) = (false, false);
                    }
                    Event::PowerOff => {
                        let about = self.about;
                        let machine = self.machine(about);
                        (machine.off, machine.suspended) = (true, false);
                    }
                    Event::Suspended | Event::Woken => {
                        let about = self.about;
                        self.machine(about).suspended = event == Event::Suspended;
                    }
                    Event::Focus => self.focus = self.about,
                    _ => {}
                }
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Does one thing and says how long to wait before the next.
    fn carry_out(&mut self, deed: Deed) -> Result<Duration> {
        let pause = match &deed {
            Deed::Keys(_) => KEY_PAUSE,
            Deed::Motion(motion) if motion.is_still() => CLICK_PAUSE,
            Deed::Motion(_) => STRIDE_PAUSE,
        };
        match (&mut self.monitor, deed) {
            (Some(monitor), Deed::Keys(scancodes)) => monitor.press(&scancodes)?,
            (Some(monitor), Deed::Motion(Motion::By(mouse))) => monitor.mouse(mouse)?,
            (None, Deed::Keys(scancodes)) => self.send(&Request::Keys(scancodes))?,
            (None, Deed::Motion(Motion::By(mouse))) => self.send(&Request::Mouse(mouse))?,
            // Umbra alone knows where the pixel is on the outer machine's screen.
            (_, Deed::Motion(Motion::To(point))) => self.send(&Request::Point(point))?,
        }
        Ok(pause)
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        match self.to.send(&request.to_bytes()) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                self.closed = true;
                Err(anyhow!("the emulator ended"))
            }
            other => other.context("cannot write to the control channel"),
        }
    }
}

/// Names what is still waited for.
fn missing(steps: &VecDeque<&Step>) -> String {
    let what = steps.iter().find_map(|step| step.waits_for());
    what.map(|what| format!(" before {what}"))
        .unwrap_or_default()
}

/// What is said when the guest `which` has suspended its machine: that, and what wakes it.
fn suspended(which: &str, window: bool) -> String {
    let wakes = match window {
        true => "a key in the window, or `power` at Umbra's console (Ctrl+Alt+Esc),",
        false => "`power` at Umbra's console (Ctrl-A three times)",
    };
    format!(
        "the guest{which} has suspended its machine; {wakes} wakes it, as its clock's alarm does"
    )
}

/// What is wrong with an Umbra that speaks version `other` of the protocol.
fn foreign(other: u16) -> Refused {
    Refused(format!(
        "this Umbra speaks version {other} of the control protocol, and this tool version {VERSION}: build both from the same source"
    ))
}

fn listen(mut stream: impl Read, arrivals: &mpsc::Sender<Arrival>, heard: &AtomicU64) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        heard.fetch_add(count as u64, Ordering::Relaxed);
        let mut bytes = buffer.get(..count).unwrap_or_default();
        while let Some(said) = decoder.next(&mut bytes) {
            if arrivals.send(Arrival::Said(said)).is_err() {
                return;
            }
        }
    }
    // The receiver may have gone first.
    let _ = arrivals.send(Arrival::Closed);
}
