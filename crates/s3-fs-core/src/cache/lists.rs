//! Several doubly linked lists over one slab of entries, so that an entry moves from list to list in constant time.

/// Names an entry as long as it is in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId(u32);

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    /// `None` while the node is spare.
    value: Option<T>,
    list: usize,
    previous: u32,
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    front: u32,
    back: u32,
    len: usize,
}

/// `N` lists of `T`.
#[derive(Debug)]
pub(super) struct Lists<T, const N: usize> {
    nodes: Vec<Node<T>>,
    spare: Vec<u32>,
    ends: [Ends; N],
}

impl<T, const N: usize> Default for Lists<T, N> {
    fn default() -> Self {
        let ends = [Ends { front: NONE, back: NONE, len: 0 }; N];
        Self { nodes: Vec::new(), spare: Vec::new(), ends }
    }
}

impl<T, const N: usize> Lists<T, N> {
    /// How many entries `list` has.
    pub(super) fn len(&self, list: usize) -> usize {
        self.ends[list].len
    }

    /// The oldest entry of `list`.
    pub(super) fn front(&self, list: usize) -> Option<EntryId> {
        let front = self.ends[list].front;
        (front != NONE).then_some(EntryId(front))
    }

    /// Appends `value` to `list`.
    pub(super) fn push(&mut self, list: usize, value: T) -> EntryId {
        let node = Node { value: Some(value), list, previous: NONE, next: NONE };
        let at = match self.spare.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer blocks than 2^32 fit into memory")
            }
        };
        self.link(at, list);
        EntryId(at)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, id: EntryId) -> T {
        self.unlink(id.0);
        self.spare.push(id.0);
        self.nodes[id.0 as usize].value.take().expect("an id is used only while its entry is there")
    }

    /// Makes an entry the newest one of `list`.
    pub(super) fn move_to(&mut self, id: EntryId, list: usize) {
        self.unlink(id.0);
        self.link(id.0, list);
    }

    /// The list that an entry is in.
    pub(super) fn list_of(&self, id: EntryId) -> usize {
        self.nodes[id.0 as usize].list
    }

    /// The value of an entry.
    pub(super) fn get_mut(&mut self, id: EntryId) -> &mut T {
        self.nodes[id.0 as usize].value.as_mut().expect("an id is used only while its entry is there")
    }

    fn link(&mut self, at: u32, list: usize) {
        let back = self.ends[list].back;
        let node = &mut self.nodes[at as usize];
        (node.list, node.previous, node.next) = (list, back, NONE);
        match back {
            NONE => self.ends[list].front = at,
            back => self.nodes[back as usize].next = at,
        }
        self.ends[list].back = at;
        self.ends[list].len += 1;
    }

    fn unlink(&mut self, at: u32) {
        let Node { list, previous, next, .. } = self.nodes[at as usize];
        match previous {
            NONE => self.ends[list].front = next,
            previous => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.ends[list].back = previous,
            next => self.nodes[next as usize].previous = previous,
        }
        self.ends[list].len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lists: &mut Lists<u8, 2>, list: usize) -> Vec<u8> {
        std::iter::from_fn(|| lists.front(list).map(|id| lists.remove(id))).collect()
    }

    #[test]
    fn entries_keep_their_order_and_move_between_lists() {
        let mut lists = Lists::<u8, 2>::default();
        let ids: Vec<_> = (0..6).map(|n| lists.push(0, n)).collect();
        lists.move_to(ids[2], 1);
        lists.move_to(ids[0], 1);
        lists.move_to(ids[5], 1);
        lists.move_to(ids[2], 1);
        assert_eq!(lists.remove(ids[3]), 3);
        let again = lists.push(0, 9);
        assert_eq!((lists.len(0), lists.len(1)), (3, 3));
        assert_eq!((lists.list_of(again), lists.list_of(ids[5])), (0, 1));
        assert_eq!(drain(&mut lists, 0), [1, 4, 9]);
        assert_eq!(drain(&mut lists, 1), [0, 5, 2]);
        assert_eq!((lists.len(0), lists.len(1)), (0, 0));
        assert_eq!(lists.nodes.len(), 6, "spare nodes are used again");
    }
}
