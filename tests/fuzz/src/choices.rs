//! Bytes read as choices, one after the other.
//!
//! Its one rule: the same bytes are the same choices, and where they end every choice is the first.
//! It does not know what is chosen.

/// What is left of the bytes.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// All choices that these bytes make.
    pub fn new(bytes: &'a [u8]) -> Self {
        Choices(bytes)
    }

    /// Whether nothing is left to choose by.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// A number with as many bits as its first byte says, so that small and huge ones are as likely.
    pub fn number(&mut self) -> u64 {
        let bits = u32::from(self.byte()) % 65;
        let number = self.take(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        number & u64::MAX.checked_shr(64 - bits).unwrap_or(0)
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: u8) -> &'a [u8] {
        let len = usize::from(self.byte().min(most));
        self.take(len)
    }

    /// Whatever is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(len.min(self.0.len()));
        self.0 = left;
        taken
    }
}
