//! Time and what is on its way: a queue of events in the order in which they happen.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::plan::Link;

/// Events by time; those of the same moment in the order in which they were put there.
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, T>,
    next: u64,
    pub now: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            now: 0,
        }
    }
}

impl<T> Queue<T> {
    pub fn after(&mut self, delay: u64, event: T) {
        self.at(self.now + delay, event);
    }

    pub fn at(&mut self, time: u64, event: T) {
        self.heap.push(Reverse((time.max(self.now), self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// The next event; time moves to it.
    pub fn pop(&mut self) -> Option<T> {
        let Reverse((time, id)) = self.heap.pop()?;
        self.now = time;
        self.events.remove(&id)
    }
}

/// Links that carry nothing until some time.
#[derive(Default)]
pub struct Cuts(BTreeMap<Link, u64>);

impl Cuts {
    pub fn cut(&mut self, link: Link, until: u64) {
        let entry = self.0.entry(link).or_default();
        *entry = (*entry).max(until);
    }

    pub fn is_cut(&self, link: Link, now: u64) -> bool {
        self.0.get(&link).is_some_and(|until| now < *until)
    }
}
