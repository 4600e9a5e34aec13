//! The network cards of a guest: `nic=`, as often as there are cards.

use core::fmt;
use core::str::FromStr;

use super::value::Nic;

/// The most network cards of a guest.
pub const MAX_NICS: usize = 4;

/// An Ethernet address of one card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Mac, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let all = bytes.iter_mut().all(|byte| {
            let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex);
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            value.map(|value| *byte = value).is_some()
        });
        // Bit 0 of the first byte is a group's (IEEE 802-2014 8.4).
        let own = bytes[0] & 1 == 0 && bytes != [0; 6];
        (all && own && parts.next().is_none())
            .then_some(Mac(bytes))
            .ok_or(
                "an address of a card is six bytes as in 52:54:00:12:34:56, the first of them even",
            )
    }
}

/// A network card, as somebody wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its kind.
    pub nic: Nic,
    /// Its address, if that is said.
    pub mac: Option<Mac>,
}

impl From<Nic> for Card {
    fn from(nic: Nic) -> Self {
        Self { nic, mac: None }
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.nic.name())?;
        match self.mac {
            Some(mac) => write!(f, ",mac={mac}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Card {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Card, Self::Err> {
        let Some((nic, mac)) = text.split_once(",mac=") else {
            return Ok(text.parse::<Nic>()?.into());
        };
        match nic.parse()? {
            Nic::None => Err("no card has no address"),
            nic => Ok(Card {
                nic,
                mac: Some(mac.parse()?),
            }),
        }
    }
}

/// What is said about a guest's network cards: nothing, that there is none, or which there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nics([Option<Card>; MAX_NICS]);

impl Nics {
    /// A further one.
    ///
    /// # Errors
    /// A sentence that says why it cannot be.
    pub fn add(&mut self, card: Card) -> Result<(), &'static str> {
        let none = |card: &Card| card.nic == Nic::None;
        let any = self.0[0].is_some();
        if any && (none(&card) || self.said().any(|said| none(&said))) {
            return Err("none is said alone");
        }
        if card.mac.is_some() && self.said().any(|said| said.mac == card.mac) {
            return Err("two cards have the same address");
        }
        let mut places = self.0.iter_mut();
        let place = places.find(|place| place.is_none());
        *place.ok_or("a guest has four network cards at most")? = Some(card);
        Ok(())
    }

    /// All that is said.
    pub fn said(&self) -> impl Iterator<Item = Card> {
        self.0.into_iter().flatten()
    }

    /// The cards; `usual`, if nothing is said.
    pub fn or(&self, usual: Nic) -> impl Iterator<Item = Card> {
        let usual = self.0[0].is_none().then_some(usual.into());
        let all = self.said().chain(usual);
        all.filter(|card| card.nic != Nic::None)
    }
}

impl From<Nic> for Nics {
    fn from(nic: Nic) -> Self {
        Self([Some(nic.into()), None, None, None])
    }
}

/// The words that say it, each with a space behind it.
impl fmt::Display for Nics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.said().try_for_each(|card| write!(f, "nic={card} "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn read(words: &[&str]) -> Result<Nics, &'static str> {
        let mut nics = Nics::default();
        words.iter().try_for_each(|word| nics.add(word.parse()?))?;
        Ok(nics)
    }

    #[test]
    fn cards_are_said_one_by_one_with_or_without_their_addresses() {
        let nics = read(&["e1000,mac=52:54:00:aB:cd:ef", "ne2k", "virtio"]).unwrap();
        assert_eq!(
            nics.to_string(),
            "nic=e1000,mac=52:54:00:ab:cd:ef nic=ne2k nic=virtio "
        );
        assert_eq!(nics.or(Nic::None).count(), 3);
        let usual: Vec<_> = Nics::default().or(Nic::Virtio).collect();
        assert_eq!(usual, [Nic::Virtio.into()]);
        assert_eq!(Nics::from(Nic::None).or(Nic::Virtio).count(), 0);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            &["none", "ne2k"][..],
            &["ne2k", "none"],
            &["ne2k", "ne2k", "ne2k", "ne2k", "ne2k"],
            &["ne2k,mac=02:00:00:00:00:01", "e1000,mac=02:00:00:00:00:01"],
            &["ne2k,mac=03:00:00:00:00:01"],
            &["ne2k,mac=00:00:00:00:00:00"],
            &["ne2k,mac=02:00:00:00:00"],
            &["ne2k,mac=02:00:00:00:00:01:02"],
            &["ne2k,mac=2:00:00:00:00:01"],
            &["ne2k,mac=+2:00:00:00:00:01"],
            &["none,mac=02:00:00:00:00:01"],
            &["ne2k,"],
            &["rtl8139"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
