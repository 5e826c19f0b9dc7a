//! Dates of the `Expires` attribute.

use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;

use crate::clock::Timestamp;

/// The last second of the year 9999, the greatest year that the format can write.
const LAST: u64 = 253_402_300_799;

/// Returns a time as an IMF-fixdate in GMT, such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110,
/// section 5.6.7). Fractions of a second are rounded up. Times before 1970 or after 9999 are
/// clamped to the first second of 1970 or the last second of 9999.
pub(super) fn http_date(time: Timestamp) -> HttpDate {
    let millis = u64::try_from(time.as_millis()).unwrap_or(0);
    HttpDate::from(UNIX_EPOCH + Duration::from_secs(millis.div_ceil(1000).min(LAST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> String {
        http_date(Timestamp::from_millis(millis)).to_string()
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
        let last_millis = i64::try_from(LAST * 1000).unwrap();
        assert_eq!(at(last_millis), last);
        assert_eq!(at(last_millis + 1), last);
        assert_eq!(at(i64::MAX), last);
        assert_eq!(at(-1), at(0));
        assert_eq!(at(i64::MIN), at(0));
    }
}
