//! The pictures, as SVG for light and dark pages.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::chart::pages::thousands;
use crate::chart::{Run, Runs, Wanted};

/// The colours: on a light page, and on a dark one.
const PAPER: Paint = Paint(RGBColor(255, 255, 255), "#0d1117");
const INK: Paint = Paint(RGBColor(31, 35, 40), "#e6edf3");
const FAINT: Paint = Paint(RGBColor(89, 99, 110), "#9198a1");
const LINE: Paint = Paint(RGBColor(209, 217, 224), "#3d444d");
const OURS: Paint = Paint(RGBColor(9, 105, 218), "#4493f8");
const SECOND: Paint = Paint(RGBColor(140, 149, 159), "#7d8590");
const THIRD: Paint = Paint(RGBColor(191, 135, 0), "#d29922");
const PAINTS: [Paint; 7] = [PAPER, INK, FAINT, LINE, OURS, SECOND, THIRD];

struct Paint(RGBColor, &'static str);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn draw(runs: &Runs, docs: &Path) -> Vec<Wanted> {
    let peers = picture(452, |area| peers(&runs.peers, area));
    let scale = picture(340, |area| scale(&runs.scale, area));
    let limit = [
        ("load, 1 thread", "load_1t"),
        ("load, 8 threads", "load_8t"),
        ("load, not in memory, 1 thread", "load_cold_1t"),
        ("change, 1 thread", "merge_1t"),
        ("change, 32 threads", "merge_32t"),
        ("load and change, 1 thread", "request_1t"),
    ];
    let limit: Vec<(&str, f64, String)> = limit
        .into_iter()
        .map(|(what, name)| {
            let [ours, theirs] =
                ["cloakroom", "hand-written"].map(|side| runs.limit.side(name, side));
            (what, runs.limit.time_ratio(name), format!("{ours:.1} µs beside {theirs:.1} µs"))
        })
        .collect();
    let limit = picture(90 + 34 * limit.len() as u32, |area| {
        let title = "Time of a request's session work; hand-written SQLite = 1 (less is better)";
        ratios(title, &limit, area);
    });
    let http = [
        ("rouille, session read", "http_read"),
        ("rouille, session written", "http_write"),
        ("rouille, handler of 1 ms, read", "http_1ms_read"),
        ("rouille, handler of 1 ms, written", "http_1ms_write"),
        ("Rocket, handler of 1 ms, read", "rocket_1ms_read"),
        ("Rocket, handler of 1 ms, written", "rocket_1ms_write"),
        ("Rocket, hello world, read inline", "rocket_read_inline"),
        ("Rocket, hello world, read", "rocket_read_crossing"),
        ("Rocket, hello world, written", "rocket_write_crossing"),
        ("Rocket and PostgreSQL, 1 ms, read", "rocket_postgres_1ms_read"),
        ("Rocket and PostgreSQL, 1 ms, written", "rocket_postgres_1ms_write"),
    ];
    let http: Vec<(&str, f64, String)> =
        http.into_iter().map(|(what, name)| (what, runs.http.value(name), String::new())).collect();
    let http = picture(90 + 34 * http.len() as u32, |area| {
        let title = "Requests per second; without sessions = 1 (more is better)";
        ratios(title, &http, area);
    });
    [("peers", peers), ("scale", scale), ("limit", limit), ("http", http)]
        .map(|(name, svg)| (docs.join(name).with_extension("svg"), svg))
        .into()
}

const WIDTH: u32 = 760;

/// Draws one picture, and adds its colours for dark pages.
fn picture(height: u32, draw: impl FnOnce(&Area)) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&PAPER.0).expect("a string takes everything");
        draw(&area);
        area.present().expect("a string takes everything");
    }
    let mut night = String::from("<style>@media (prefers-color-scheme: dark) {");
    for Paint(RGBColor(red, green, blue), dark) in PAINTS {
        for attribute in ["fill", "stroke"] {
            let day = format!("#{red:02X}{green:02X}{blue:02X}");
            night.push_str(&format!("[{attribute}=\"{day}\"] {{ {attribute}: {dark} }} "));
        }
    }
    night.push_str("}</style>\n");
    let head = svg.find('>').expect("an element") + 1;
    svg.insert_str(head, &format!("\n{night}"));
    svg
}

fn write(area: &Area, text: &str, size: u32, paint: &Paint, at: (i32, i32), side: HPos) {
    // The library's size is the height of a line, which is a quarter more.
    let style = ("sans-serif", f64::from(size) * 1.24).into_font().color(&paint.0);
    let style = style.pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).expect("a string takes everything");
}

fn bar(area: &Area, paint: &Paint, from: (i32, i32), to: (i32, i32)) {
    area.draw(&Rectangle::new([from, to], paint.0.filled())).expect("a string takes everything");
}

/// Requests per second of cloakroom and the peers, for two workloads, on one thread and on eight.
fn peers(run: &Run, area: &Area) {
    const SIDES: [(&str, Paint); 3] = [
        ("cloakroom", OURS),
        ("tower-sessions-rusqlite-store", SECOND),
        ("tower-sessions-sqlx-store", THIRD),
    ];
    let title = "Requests per second, 100,000 sessions in SQLite (more is better)";
    write(area, title, 16, &INK, (20, 24), HPos::Left);
    let mut x = 20;
    for (name, paint) in SIDES {
        bar(area, &paint, (x, 44), (x + 12, 56));
        write(area, name, 13, &FAINT, (x + 18, 50), HPos::Left);
        x += 40 + 7 * name.len() as i32;
    }
    let mut y = 76;
    for (what, name) in [("a value read", "peer_load"), ("one read, one changed", "peer_request")] {
        let rate = |threads: u32, side: &str| 1e6 / run.side(&format!("{name}_{threads}t"), side);
        let most = [1, 8].iter().flat_map(|threads| SIDES.map(|(side, _)| rate(*threads, side)));
        let most = most.fold(0.0, f64::max);
        write(area, what, 14, &INK, (20, y + 10), HPos::Left);
        y += 26;
        for (threads, label) in [(1, "1 thread"), (8, "8 threads")] {
            write(area, label, 13, &FAINT, (110, y + 32), HPos::Right);
            for (side, paint) in SIDES {
                let rate = rate(threads, side);
                let end = 120 + (520.0 * rate / most).round().max(1.0) as i32;
                bar(area, &paint, (120, y), (end, y + 18));
                write(area, &thousands(rate), 13, &INK, (end + 6, y + 9), HPos::Left);
                y += 22;
            }
            y += 10;
        }
        y += 6;
    }
}

/// Bars of ratios, and a line at 1.
fn ratios(title: &str, bars: &[(&str, f64, String)], area: &Area) {
    const LEFT: i32 = 230;
    write(area, title, 16, &INK, (20, 24), HPos::Left);
    let most = bars.iter().map(|(_, value, _)| *value).fold(1.0, f64::max);
    let at = |value: f64| LEFT + (330.0 * value / most).round() as i32;
    let bottom = 54 + 34 * bars.len() as i32;
    let mut y = 54;
    for (what, value, from) in bars {
        write(area, what, 13, &FAINT, (LEFT - 10, y + 11), HPos::Right);
        bar(area, &OURS, (LEFT, y), (at(*value), y + 22));
        let from = if from.is_empty() { String::new() } else { format!("  ({from})") };
        let end = at(*value).max(at(1.0)) + 8;
        write(area, &format!("{value:.2}{from}"), 13, &INK, (end, y + 11), HPos::Left);
        y += 34;
    }
    let line = PathElement::new([(at(1.0), 46), (at(1.0), bottom - 4)], INK.0);
    area.draw(&line).expect("a string takes everything");
    write(area, "1", 13, &FAINT, (at(1.0), bottom + 8), HPos::Center);
}

/// The cost of a request by the number of sessions.
fn scale(run: &Run, area: &Area) {
    let lines = [
        ("load", "scale_load", OURS),
        ("change", "scale_merge", SECOND),
        ("list of 5", "scale_list", THIRD),
    ];
    let title = "Microseconds, by the number of sessions in the file (less is better)";
    write(area, title, 16, &INK, (20, 24), HPos::Left);
    let first = run.points(lines[0].1);
    let (from, to) = (first[0].0, first[first.len() - 1].0);
    let most = lines.iter().flat_map(|(_, name, _)| run.points(name)).map(|(_, time)| time);
    let most = most.fold(0.0, f64::max);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].into_iter().find(|step| step * 6.0 >= most);
    let step = step.unwrap_or(100.0);
    let steps = (most / step).ceil();
    let most = steps * step;
    let (left, right, top, bottom) = (60, 640, 56, 296);
    let at = |(sessions, time): (f64, f64)| {
        let across = (sessions / from).ln() / (to / from).ln();
        let up = time / most;
        (
            left + (f64::from(right - left) * across).round() as i32,
            bottom - (f64::from(bottom - top) * up).round() as i32,
        )
    };
    for line in 0..=steps as u32 {
        let time = step * f64::from(line);
        let y = at((from, time)).1;
        let grid = PathElement::new([(left, y), (right, y)], LINE.0);
        area.draw(&grid).expect("a string takes everything");
        write(area, &format!("{time:.0}"), 13, &FAINT, (left - 8, y), HPos::Right);
    }
    for (sessions, _) in &first {
        let x = at((*sessions, 0.0)).0;
        write(area, &thousands(*sessions), 13, &FAINT, (x, bottom + 18), HPos::Center);
    }
    // Names that would overlap are moved apart, the lowest line first.
    let mut ends: Vec<(&str, i32)> = Vec::new();
    for (what, name, paint) in lines {
        let points: Vec<(i32, i32)> = run.points(name).into_iter().map(at).collect();
        area.draw(&PathElement::new(points.clone(), paint.0.stroke_width(3)))
            .expect("a string takes everything");
        for point in &points {
            area.draw(&Circle::new(*point, 4, paint.0.filled()))
                .expect("a string takes everything");
        }
        ends.push((what, points[points.len() - 1].1));
    }
    ends.sort_by_key(|(_, y)| -y);
    let mut lowest = i32::MAX;
    for (what, y) in ends {
        let y = y.min(lowest - 16);
        write(area, what, 14, &INK, (right + 14, y), HPos::Left);
        lowest = y;
    }
}
