//! A state machine for tests: the list of all commands, in order.

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use granary_consensus::{SnapshotSource, StateMachine};
use parking_lot::Mutex;

/// A command that no replica can apply.
pub(crate) const UNAPPLICABLE: &[u8] = b"unapplicable";

/// Remembers every command. Replies with how many there are.
#[derive(Debug, Default)]
pub(crate) struct ListMachine(Mutex<List>, AtomicBool);

#[derive(Debug, Default, Clone)]
struct List {
    index: u64,
    commands: Vec<Bytes>,
}

impl ListMachine {
    /// Whether the disk is full from now on, as far as snapshots are concerned.
    pub(crate) fn fill_disk(&self, full: bool) {
        self.1.store(full, Ordering::Relaxed);
    }

    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.0.lock().commands.clone()
    }
}

impl StateMachine for ListMachine {
    fn apply(&self, index: u64, command: &Bytes) -> io::Result<Bytes> {
        if *command == UNAPPLICABLE {
            return Err(io::Error::other("command cannot be applied"));
        }
        let mut list = self.0.lock();
        assert!(index > list.index, "index {index} was applied before {}", list.index);
        list.index = index;
        list.commands.push(command.clone());
        Ok(Bytes::from(list.commands.len().to_string()))
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn snapshot(&self) -> io::Result<Box<dyn SnapshotSource>> {
        let list = self.0.lock().clone();
        Ok(if self.1.load(Ordering::Relaxed) { Box::new(Full(list.index)) } else { Box::new(list) })
    }

    fn restore(&self, index: u64, _local: bool, body: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        let mut commands = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk() {
            let (command, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
            commands.push(Bytes::copy_from_slice(command));
            rest = tail;
        }
        *self.0.lock() = List { index, commands };
        Ok(())
    }
}

impl SnapshotSource for List {
    fn index(&self) -> u64 {
        self.index
    }

    fn write_to(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        for command in &self.commands {
            out.write_all(&u32::try_from(command.len()).unwrap().to_be_bytes())?;
            out.write_all(command)?;
        }
        Ok(())
    }
}

/// A snapshot that does not fit on the disk.
struct Full(u64);

impl SnapshotSource for Full {
    fn index(&self) -> u64 {
        self.0
    }

    fn write_to(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[0; 4_096])?;
        Err(io::ErrorKind::StorageFull.into())
    }
}
