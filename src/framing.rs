//! The frames that gRPC puts around each message: off on the way to Redis, on again on the way back.
//!
//! Its one rule: every byte of a message goes on as soon as it comes, so nothing is kept but the head of a frame.
//! It does not know what a message says.

/// How long the head of a frame is: a flag, and the length of the message in four bytes, big-endian.
const HEAD: usize = 5;

/// How long a message may be. The VM that writes it has 1 GiB, of which it takes the message twice.
const MESSAGE_MAX: u32 = 256 << 20;

/// The frames of one stream, as its bytes come.
#[derive(Debug, Default)]
pub struct Frames {
    /// What has come of the next head.
    head: Vec<u8>,
    /// How much of the message in hand is still to come.
    left: usize,
}

/// What has come is no frame of a message that is neither compressed nor too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrame;

impl Frames {
    /// Whether the next so many bytes are all of the message in hand; they go on as they are then.
    pub fn pass(&mut self, size: usize) -> bool {
        let passes = size <= self.left;
        if passes {
            self.left -= size;
        }
        passes
    }

    /// Takes the heads off these bytes; what is left goes on.
    ///
    /// # Errors
    /// They are no frames.
    pub fn strip(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, NoFrame> {
        let mut out = Vec::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let (message, rest) = bytes.split_at(self.left.min(bytes.len()));
            out.extend(message);
            self.left -= message.len();
            let (head, rest) = rest.split_at((HEAD - self.head.len()).min(rest.len()));
            self.head.extend(head);
            bytes = rest;
            if let Ok(head) = <[u8; HEAD]>::try_from(self.head.as_slice()) {
                let [flag, len @ ..] = head;
                let len = u32::from_be_bytes(len);
                if flag != 0 || len > MESSAGE_MAX {
                    return Err(NoFrame);
                }
                self.left = len as usize;
                self.head.clear();
            }
        }
        Ok(out)
    }
}

/// The head of a frame around so many bytes.
pub fn head(len: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (len as u32).to_be_bytes();
    [0, a, b, c, d]
}
