//! Progress bars on standard error, shown where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Returns a progress bar that counts `unit`.
pub(crate) fn bar(operation: &'static str, unit: &str) -> ProgressBar {
    let template =
        format!("{operation} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
    let bar = ProgressBar::new(0).with_message(operation);
    ticking(match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    })
}

/// Returns a progress display for work of unknown length.
pub(crate) fn spinner(operation: &'static str) -> ProgressBar {
    ticking(ProgressBar::new_spinner().with_message(operation))
}

fn ticking(bar: ProgressBar) -> ProgressBar {
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
