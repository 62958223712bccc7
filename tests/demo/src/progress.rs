//! Live progress on standard error: one bar that moves on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shows what is going on.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Mutex<Instant>,
}

/// Between two plain lines of numbers.
const LINES_EVERY: Duration = Duration::from_secs(2);

/// What a moment looks like.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Ticks acknowledged so far.
    pub acknowledged: u64,
    /// Ticks acknowledged a second, lately.
    pub rate: u64,
    /// Age of the oldest write that the other region lacks, as the active region sees it; `None` = not known.
    pub lag_ms: Option<u64>,
    /// The region that takes the writes.
    pub active: String,
}

impl Progress {
    /// A bar if standard error is a terminal, lines otherwise.
    pub fn new() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{elapsed_precise} {spinner} {prefix:.bold} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let now = Instant::now();
        Progress {
            bar,
            started: now,
            last_line: Mutex::new(now),
        }
    }

    /// Something began or happened; it stays on the screen.
    pub fn say(&self, text: &str) {
        let line = format!("[{:6.1} s] {text}", self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// The name of the phase that goes on now.
    pub fn phase(&self, name: &str) {
        self.say(name);
        if let Some(bar) = &self.bar {
            bar.set_prefix(name.to_owned());
        }
    }

    /// Numbers of the moment; in plain lines only every two seconds.
    pub fn show(&self, moment: &Moment) {
        let lag = moment.lag_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms} ms"));
        let text = format!(
            "active {:<5} {:>6} ticks/s {:>9} acknowledged, lag {lag}",
            moment.active, moment.rate, moment.acknowledged
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => {
                let mut last = self.last_line.lock();
                if last.elapsed() >= LINES_EVERY {
                    *last = Instant::now();
                    self.say(&text);
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}
