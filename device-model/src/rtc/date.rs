//! The proleptic Gregorian calendar, as far as a real-time clock needs it: seconds since 1970 to date and time and back.

/// Seconds of a day.
pub const DAY: i64 = 86_400;
/// Days of 400 Gregorian years.
const ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH: i64 = 719_468;

/// A date with the time of day, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Date {
    /// Year, 0 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Day of the week, 1 (Sunday) to 7.
    pub weekday: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59.
    pub second: u8,
}

impl Date {
    /// The date `seconds` after the beginning of 1970; the year is taken modulo 10000.
    #[must_use]
    pub fn of_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY);
        let time = seconds.rem_euclid(DAY);
        // Years are counted from 1 March here, so that the leap day is a year's last.
        let from_march = days + EPOCH;
        let era = from_march.div_euclid(ERA);
        let day_of_era = from_march.rem_euclid(ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            year: year.rem_euclid(10_000) as u16,
            month: month as u8,
            day: day as u8,
            // 1 January 1970 was a Thursday, day 5.
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            hour: (time / 3_600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// Seconds since the beginning of 1970. The day of the week is ignored; fields out of range are moved into it.
    #[must_use]
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.year.min(9_999)) - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = (month + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day.clamp(1, 31)) - 1;
        let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA + day_of_era - EPOCH;
        let (hour, minute, second) = (self.hour.min(23), self.minute.min(59), self.second.min(59));
        days * DAY + i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second)
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    fn date(
        year: u16,
        month: u8,
        day: u8,
        weekday: u8,
        (hour, minute, second): (u8, u8, u8),
    ) -> Date {
        Date {
            year,
            month,
            day,
            weekday,
            hour,
            minute,
            second,
        }
    }

    #[test]
    fn known_moments_convert_both_ways() {
        let known = [
            (0, date(1970, 1, 1, 5, (0, 0, 0))),
            (-1, date(1969, 12, 31, 4, (23, 59, 59))),
            (951_782_400, date(2000, 2, 29, 3, (0, 0, 0))),
            (946_684_799, date(1999, 12, 31, 6, (23, 59, 59))),
            (1_000_000_000, date(2001, 9, 9, 1, (1, 46, 40))),
            (1_234_567_890, date(2009, 2, 13, 6, (23, 31, 30))),
            (2_147_483_648, date(2038, 1, 19, 3, (3, 14, 8))),
            (4_107_542_400, date(2100, 3, 1, 2, (0, 0, 0))),
            (253_402_300_799, date(9999, 12, 31, 6, (23, 59, 59))),
        ];
        for (seconds, d) in known {
            assert_eq!(Date::of_unix(seconds), d);
            assert_eq!(d.to_unix(), seconds);
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut previous = Date::of_unix(0);
        for day in 1..146_097 {
            let d = Date::of_unix(day * super::DAY);
            assert_eq!(d.to_unix(), day * super::DAY);
            assert_eq!(d.weekday, previous.weekday % 7 + 1);
            assert!(d.day == previous.day + 1 || d.day == 1 && previous.day >= 28);
            previous = d;
        }
    }

    #[test]
    fn nonsense_is_moved_into_range() {
        assert_eq!(date(1970, 0, 0, 0, (99, 99, 99)).to_unix(), 86_399);
        let _ = date(u16::MAX, 255, 255, 255, (255, 255, 255)).to_unix();
        let _ = Date::of_unix(i64::MIN);
        let _ = Date::of_unix(i64::MAX);
    }
}
