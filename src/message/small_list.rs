//! A list that rarely has more than a few items.

/// A list whose first `N` items are stored in place, without an allocation.
#[derive(Clone, Debug)]
pub(crate) struct SmallList<T, const N: usize> {
    first: [Option<T>; N],
    more: Vec<T>,
}

impl<T, const N: usize> Default for SmallList<T, N> {
    fn default() -> Self {
        SmallList { first: [const { None }; N], more: Vec::new() }
    }
}

impl<T, const N: usize> SmallList<T, N> {
    pub(crate) fn push(&mut self, item: T) {
        match self.first.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = Some(item),
            None => self.more.push(item),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().flatten().chain(&self.more)
    }

    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}
