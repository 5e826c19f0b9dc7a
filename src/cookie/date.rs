//! Dates of the `Expires` attribute: formats a [`Timestamp`] as an IMF-fixdate.

use std::fmt;

use crate::clock::Timestamp;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The last second of the year 9999, the greatest year that the format can write.
const LAST: i64 = 253_402_300_799;

/// A timestamp that formats as an IMF-fixdate in GMT, such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC
/// 9110, section 5.6.7). Fractions of a second are rounded up. Times before 1970 or after 9999 are
/// clamped to the first second of 1970 or the last second of 9999.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpDate(pub(super) Timestamp);

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = (self.0.as_millis().saturating_add(999) / 1000).clamp(0, LAST);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let name = |names: &[&'static str], at: i64| {
            usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or_default()
        };
        let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month));
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

/// Converts days since 1970-01-01 to the year, the month from 0, and the day from 1.
///
/// Internally a year begins in March, so that the leap day is the last day of its year, and days
/// count from 0000-03-01 in eras of 400 years, each of 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    // Subtracts the leap days: one every 4 years, but not every 100 years, but every 400 years.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March to July have 153 days, as do August to December.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    // January and February belong to the next calendar year.
    let next = i64::from(month >= 10);
    (era * 400 + year + next, (month + 2) % 12, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> String {
        HttpDate(Timestamp::from_millis(millis)).to_string()
    }

    #[test]
    fn known_dates_are_formatted_as_date_formats_them() {
        // date -u -d @… '+%a, %d %b %Y %H:%M:%S GMT'
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400_000), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(1_700_000_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(at(4_107_542_399_000), "Sun, 28 Feb 2100 23:59:59 GMT");
        assert_eq!(at(4_107_542_400_000), "Mon, 01 Mar 2100 00:00:00 GMT");
    }

    #[test]
    fn fractions_of_a_second_are_rounded_up() {
        assert_eq!(at(1), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(at(999), at(1000));
        assert_eq!(at(1001), "Thu, 01 Jan 1970 00:00:02 GMT");
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        let last = "Fri, 31 Dec 9999 23:59:59 GMT";
        assert_eq!(at(LAST * 1000), last);
        assert_eq!(at(LAST * 1000 + 1), last);
        assert_eq!(at(i64::MAX), last);
        assert_eq!(at(-1), at(0));
        assert_eq!(at(i64::MIN), at(0));
    }

    #[test]
    fn every_day_until_9999_follows_the_calendar() {
        let is_leap = |year| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day) = (1970, 0, 1);
        for days in 0..=LAST / 86_400 {
            assert_eq!(civil(days), (year, month, day), "day {days}");
            let february = if is_leap(year) { 29 } else { 28 };
            let length = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize];
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month == 12 {
                (year, month) = (year + 1, 0);
            }
        }
        assert_eq!((year, month, day), (10_000, 0, 1));
    }
}
