//! How far long work is: a bar on a terminal, elsewhere a line now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qcc::passes::context::Progress;

/// Work that ends sooner shows nothing on a terminal.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between lines where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// Time between looks at what is to be shown.
const TICK: Duration = Duration::from_millis(100);

/// What is worked on.
struct Work {
    stage: String,
    since: Instant,
    done: usize,
    total: usize,
    /// When the last line was written; at first, when the command began to work.
    told: Instant,
    bar: Option<ProgressBar>,
}

static WORK: Mutex<Option<Work>> = Mutex::new(None);

/// A listener that shows progress.
pub fn progress() -> Option<Progress> {
    static START: Once = Once::new();
    START.call_once(|| {
        // It ends with the process. Without it there is no progress to be seen, and nothing else is lost.
        let _ = std::thread::Builder::new().name("progress".into()).spawn(|| {
            loop {
                std::thread::sleep(TICK);
                with_work(|work| {
                    if let Some(work) = work {
                        work.show(Instant::now())
                    }
                });
            }
        });
    });
    Some(Arc::new(report))
}

/// Takes note of what is worked on.
pub fn report(stage: &str, done: usize, total: usize) {
    let now = Instant::now();
    with_work(|work| {
        // Threads report in any order; what falls far behind has begun anew.
        let goes_on = |w: &Work| w.stage == stage && (w.total == total || w.total == 0) && done + total / 2 >= w.done;
        if !work.as_ref().is_some_and(goes_on) {
            let told = work.as_ref().map_or(now, |w| w.told);
            clear(work.as_mut());
            *work = Some(Work { stage: stage.to_string(), since: now, done, total, told, bar: None });
        }
        if let Some(work) = work {
            (work.done, work.total) = (done, total);
        }
    });
}

/// Takes everything off the terminal: what is written next begins on a line of its own.
pub fn finish() {
    with_work(|work| {
        clear(work.as_mut());
        *work = None;
    });
}

/// Writes to stderr while no bar is in the way.
pub fn apart(write: impl FnOnce()) {
    // Whoever holds the lock may be the one who writes, of a fault.
    match WORK.try_lock() {
        Ok(work) => match work.as_ref().and_then(|w| w.bar.as_ref()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        },
        Err(_) => write(),
    }
}

/// Writes a line to stderr, whatever else is there.
pub fn write_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn with_work(f: impl FnOnce(&mut Option<Work>)) {
    f(&mut WORK.lock().unwrap_or_else(PoisonError::into_inner));
}

fn clear(work: Option<&mut Work>) {
    if let Some(bar) = work.and_then(|w| w.bar.take()) {
        bar.finish_and_clear();
    }
}

impl Work {
    fn show(&mut self, now: Instant) {
        if io::stderr().is_terminal() {
            self.draw(now);
        } else if let Some(line) = self.line(now) {
            write_line(&line);
        }
    }

    fn draw(&mut self, now: Instant) {
        if self.bar.is_none() && now.duration_since(self.since) >= PATIENCE {
            let template = match self.total {
                0 => "{msg} {spinner} {elapsed}",
                _ => "{msg} [{wide_bar}] {pos}/{len}, {eta} left",
            };
            let bar =
                ProgressBar::new(self.total as u64).with_message(doing(&self.stage)).with_elapsed(now - self.since);
            self.bar = Some(match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            });
        }
        if let Some(bar) = &self.bar {
            bar.set_length(self.total as u64);
            bar.set_position(self.done as u64);
            bar.tick();
        }
    }

    /// The line to be written now, if it is time for one.
    fn line(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.told) < INTERVAL {
            return None;
        }
        self.told = now;
        let seconds = now.duration_since(self.since).as_secs();
        let share = if self.total > 0 { format!("{} of {}, ", self.done, self.total) } else { String::new() };
        Some(format!("{}: {share}{seconds} s", doing(&self.stage)))
    }
}

/// What a stage does, for people.
fn doing(stage: &str) -> String {
    match stage {
        "calibrate" => "calibrating".to_string(),
        "compare" => "comparing".to_string(),
        "import" => "reading the model".to_string(),
        "finetune" => "training".to_string(),
        "code" => "generating code".to_string(),
        "damage" => "measuring what each layer does to the output".to_string(),
        "remedies" => "trying what helps".to_string(),
        "values" => "looking at values".to_string(),
        "tune" => "tuning".to_string(),
        "search" => "looking for what to raise to 16 bits".to_string(),
        pass => pass.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_every_ten_seconds() {
        let start = Instant::now();
        let mut work = Work { stage: "round-weights".into(), since: start, done: 3, total: 9, told: start, bar: None };
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(work.line(at(9)), None);
        assert_eq!(work.line(at(10)).as_deref(), Some("round-weights: 3 of 9, 10 s"));
        assert_eq!(work.line(at(19)), None);
        (work.stage, work.since, work.total) = ("code".into(), at(15), 0);
        assert_eq!(work.line(at(20)).as_deref(), Some("generating code: 5 s"));
    }
}
