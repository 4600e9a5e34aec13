//! The network: the guests' cards and the host's, a virtio one, are plugged into a [switch](switch::Network).
//!
//! The host card's interrupt says that frames have arrived; they are sorted into the guests' queues then, or when a guest's card
//! asks for its next, whichever is first. Nothing is allocated for a frame.

mod card;

use crate::interrupts::Concerns;
use crate::smp;
use alloc::boxed::Box;
use card::Card;
use hv_core::backend::NetBackend;
use hv_core::offload::{Offload, Offloads};
use spin::Mutex;
use switch::{Address, Network, Ports};

static NETWORK: Mutex<Option<Network<Card>>> = Mutex::new(None);

/// A guest's end of the cable.
struct Cable {
    /// The number of its VM.
    vm: u8,
    port: usize,
    /// How many of its frames were refused.
    refused: u64,
}

impl Cable {
    /// Says that frames were refused: of the first, the tenth, the hundredth, ...
    fn tell_refused(&mut self, refused: u64) {
        if refused != self.refused && refused == 10u64.pow(refused.ilog10()) {
            log::warn!(
                "VM {}: {refused} of its frames dropped, whose source address is not its card's",
                self.vm
            );
        }
        self.refused = refused;
    }
}

/// A guest that does not run now has got a frame: the session is to tell it.
fn tell(more: bool) {
    if more {
        smp::kick_first();
    }
}

impl NetBackend for Cable {
    fn send(&mut self, frame: &[u8]) {
        self.send_unfinished(frame, &Offload::NONE);
    }

    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        let (len, _) = self.receive_unfinished(buf)?;
        Some(len)
    }

    fn send_unfinished(&mut self, frame: &[u8], offload: &Offload) {
        if let Some(network) = &mut *NETWORK.lock() {
            tell(network.send(self.port, frame, offload));
            self.tell_refused(network.refused(self.port));
        }
    }

    fn accept(&mut self, offloads: Offloads) {
        if let Some(network) = &mut *NETWORK.lock() {
            network.accept(self.port, offloads);
        }
    }

    fn receive_unfinished(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)> {
        let (frame, more) = NETWORK.lock().as_mut()?.receive(self.port, buf);
        tell(more);
        frame
    }
}

/// Plugs the card of VM `vm` in, which has this address. Returns its end of the cable, and its port; None: the switch has no more ports.
pub fn plug(vm: u8, address: Address) -> Option<(Box<dyn NetBackend>, usize)> {
    let mut network = NETWORK.lock();
    let network = network.get_or_insert_with(|| Network::new(Card::open(interrupt)));
    let port = network.plug(address)?;
    let cable = Cable {
        vm,
        port,
        refused: 0,
    };
    Some((Box::new(cable), port))
}

/// The card interrupts: frames have arrived, or have been sent.
fn interrupt() -> Concerns {
    if let Some(network) = &mut *NETWORK.lock()
        && let Some(card) = network.uplink()
    {
        card.acknowledge();
        network.sort();
    }
    Concerns::Devices
}

/// The ports of guests for which frames have come since this was last asked.
pub fn arrived() -> Ports {
    NETWORK
        .lock()
        .as_mut()
        .map_or(Ports::NONE, Network::arrived)
}
