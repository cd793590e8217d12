//! Which slots the shard owns, and since which epoch (RG-1).

use std::collections::BTreeMap;

use granary_proto::internal as wire;
use granary_types::{Epoch, Slot};

/// The epoch of each owned slot. Small (8 bytes a slot), copied on the rare change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// By slot; 0 stands for a slot that is not owned, as epochs start at 1.
    epochs: Vec<u64>,
}

impl Slots {
    /// The epoch at which the slot is owned.
    pub(crate) fn epoch_of(&self, slot: Slot) -> Option<Epoch> {
        self.epochs.get(usize::from(slot.0)).filter(|epoch| **epoch > 0).map(|epoch| Epoch(*epoch))
    }

    /// Takes the slot at `epoch`, unless it is owned already.
    pub(crate) fn open(&mut self, slot: Slot, epoch: Epoch) {
        let place = usize::from(slot.0);
        if place >= self.epochs.len() {
            self.epochs.resize(place + 1, 0);
        }
        if self.epochs[place] == 0 {
            self.epochs[place] = epoch.0;
        }
    }

    /// How many slots are owned.
    pub(crate) fn count(&self) -> usize {
        self.epochs.iter().filter(|epoch| **epoch > 0).count()
    }

    pub(crate) fn to_wire(&self) -> Vec<wire::OwnedSlots> {
        let mut by_epoch: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (slot, epoch) in (0_u32..).zip(&self.epochs).filter(|(_, epoch)| **epoch > 0) {
            by_epoch.entry(*epoch).or_default().push(slot);
        }
        by_epoch.into_iter().map(|(epoch, slots)| wire::OwnedSlots { epoch, slots }).collect()
    }

    /// `None` when a slot is out of range.
    pub(crate) fn from_wire(owned: &[wire::OwnedSlots]) -> Option<Self> {
        let mut slots = Self::default();
        for wire::OwnedSlots { epoch, slots: of_epoch } in owned {
            for slot in of_epoch {
                slots.open(Slot(u16::try_from(*slot).ok()?), Epoch(*epoch));
            }
        }
        Some(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_is_not_owned_and_survives_the_wire() {
        let mut slots = Slots::default();
        slots.open(Slot(9), Epoch(1));
        slots.open(Slot(9), Epoch(5));
        slots.open(Slot(4), Epoch(5));
        assert_eq!(slots.epoch_of(Slot(9)), Some(Epoch(1)));
        assert_eq!(slots.epoch_of(Slot(3)), None);
        assert_eq!(slots.epoch_of(Slot(4000)), None);
        assert_eq!(slots.count(), 2);
        assert_eq!(Slots::from_wire(&slots.to_wire()), Some(slots));
    }
}
