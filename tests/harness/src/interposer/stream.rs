//! The fault proxy on a stream of commands to Redis.
//!
//! One rule: commands go on as they come, and replies come back in their order, so a fault delays all that follow it.
//! It does not know what a command asks.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::{BETWEEN_SLICES, Desk, Fault, SLICES};
use crate::resp;

/// What the replies are awaited for, in the order of the commands.
struct Awaited {
    fault: Fault,
    /// How many replies of the store are its.
    replies: usize,
}

/// Serves one stream until it or the store's ends; an end of either ends both.
pub(super) async fn serve(client: TcpStream, desk: &Desk) -> io::Result<()> {
    let (from_client, to_client) = halves(client)?;
    let (from_store, to_store) = halves(TcpStream::connect(desk.store()).await?)?;
    let (asked, awaited) = mpsc::unbounded_channel();
    tokio::select! {
        ended = commands(from_client, to_store, desk, asked) => ended,
        ended = replies(from_store, to_client, desk, awaited) => ended,
    }
}

async fn commands(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    desk: &Desk,
    asked: mpsc::UnboundedSender<Awaited>,
) -> io::Result<()> {
    let mut from = Messages::new(from);
    loop {
        let command = from.next().await?;
        let fault = desk.fault();
        let mut replies = 1;
        match &fault {
            Fault::CutBefore => return Ok(()),
            Fault::Say(200, _) | Fault::Silence => replies = 0,
            Fault::Say(..) => return Ok(()),
            Fault::Late(time) => {
                tokio::time::sleep(*time).await;
                to.write_all(&command).await?;
            }
            Fault::Slice => sliced(&mut to, &command).await?,
            Fault::Twice => {
                to.write_all(&command).await?;
                to.write_all(&command).await?;
                replies = 2;
            }
            _ => to.write_all(&command).await?,
        }
        // An end of the other half ends this one too.
        let _ = asked.send(Awaited { fault, replies });
    }
}

async fn replies(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    desk: &Desk,
    mut awaited: mpsc::UnboundedReceiver<Awaited>,
) -> io::Result<()> {
    let mut from = Messages::new(from);
    loop {
        let Awaited { fault, replies } = tokio::select! {
            awaited = awaited.recv() => awaited.ok_or(io::ErrorKind::UnexpectedEof)?,
            // What Redis says unasked is the client's to see.
            unasked = from.some() => {
                to.write_all(&unasked?).await?;
                continue;
            }
        };
        let mut reply = Vec::new();
        for number in 0..replies {
            let next = from.next().await?;
            reply = if number == 0 { next } else { reply };
        }
        match fault {
            Fault::CutAfter => return Ok(()),
            Fault::CutInside => {
                reply.truncate(reply.len() / 2);
                return to.write_all(&reply).await;
            }
            Fault::DelayReply(time) => {
                tokio::time::sleep(time).await;
                to.write_all(&reply).await?;
            }
            Fault::Say(_, said) | Fault::SayAfter(200, said) => to.write_all(&said).await?,
            Fault::SayAfter(..) => return Ok(()),
            Fault::Silence => return std::future::pending().await,
            Fault::Slice => sliced(&mut to, &reply).await?,
            Fault::Swap => to.write_all(&desk.exchange(reply)).await?,
            Fault::Late(_) | Fault::Pass | Fault::Twice => to.write_all(&reply).await?,
            Fault::CutBefore => return Ok(()),
        }
    }
}

async fn sliced(to: &mut OwnedWriteHalf, message: &[u8]) -> io::Result<()> {
    for slice in message.chunks(message.len().div_ceil(SLICES)) {
        to.write_all(slice).await?;
        // Otherwise the kernel would join them again.
        tokio::time::sleep(BETWEEN_SLICES).await;
    }
    Ok(())
}

fn halves(stream: TcpStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    Ok(stream.into_split())
}

/// One direction of a connection, read message by message.
struct Messages {
    from: OwnedReadHalf,
    unread: Vec<u8>,
}

impl Messages {
    fn new(from: OwnedReadHalf) -> Messages {
        Messages { from, unread: Vec::new() }
    }

    /// The next command or reply, as its bytes.
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(len) = resp::message_len(&self.unread)? {
                let rest = self.unread.split_off(len);
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            self.more().await?;
        }
    }

    /// The next bytes, whatever they are.
    async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.more().await?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.from.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
