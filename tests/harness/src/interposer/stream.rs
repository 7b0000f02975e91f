//! The fault proxy on a stream of commands to Redis.
//!
//! One rule: commands go on as they come, and replies come back in their order, so a fault holds up all that follow it.
//! It does not know what a command asks.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::{BETWEEN_SLICES, Desk, Fault, SLICES};
use crate::resp;

/// A command that has come.
struct Command {
    bytes: Vec<u8>,
    fault: Fault,
    came: Instant,
}

/// A command whose reply is awaited.
struct Asked {
    fault: Fault,
    came: Instant,
}

/// Serves one stream until it or the store's ends; an end of either ends both.
pub(super) async fn serve(client: TcpStream, desk: &Desk) -> io::Result<()> {
    let (from_client, to_client) = halves(client)?;
    let (from_store, to_store) = halves(TcpStream::connect(desk.store()).await?)?;
    let (come, coming) = unbounded_channel();
    let (ask, asked) = unbounded_channel();
    tokio::select! {
        ended = take(from_client, desk, come) => ended,
        ended = forward(coming, to_store, ask) => ended,
        ended = answer(asked, from_store, to_client, desk) => ended,
    }
}

/// Takes commands as they come.
async fn take(from: OwnedReadHalf, desk: &Desk, come: UnboundedSender<Command>) -> io::Result<()> {
    let mut from = Messages::new(from);
    loop {
        let bytes = from.next().await?;
        let (fault, came) = (desk.fault(&bytes), Instant::now());
        if come.send(Command { bytes, fault, came }).is_err() {
            return Ok(());
        }
    }
}

/// Has the store run them.
async fn forward(
    mut coming: UnboundedReceiver<Command>,
    mut to: OwnedWriteHalf,
    ask: UnboundedSender<Asked>,
) -> io::Result<()> {
    while let Some(Command { bytes, fault, came }) = coming.recv().await {
        match &fault {
            Fault::CutBefore => return Ok(()),
            Fault::Say(200, _) | Fault::Silence => {}
            Fault::Say(..) => return Ok(()),
            Fault::Late(time) => sleep_until(came + *time).await,
            _ => {}
        }
        // Before the store can have answered it.
        if ask.send(Asked { fault: fault.clone(), came }).is_err() {
            return Ok(());
        }
        match fault {
            Fault::Say(..) | Fault::Silence => {}
            Fault::Slice => sliced(&mut to, &bytes).await?,
            Fault::Twice => to.write_all(&bytes.repeat(2)).await?,
            _ => to.write_all(&bytes).await?,
        }
    }
    Ok(())
}

/// Hands the replies back.
async fn answer(
    mut asked: UnboundedReceiver<Asked>,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    desk: &Desk,
) -> io::Result<()> {
    let mut from = Messages::new(from);
    loop {
        let Asked { fault, came } = tokio::select! {
            biased;
            command = asked.recv() => command.ok_or(io::ErrorKind::UnexpectedEof)?,
            // What Redis says unasked is the client's to see.
            unasked = from.some() => {
                to.write_all(&unasked?).await?;
                continue;
            }
        };
        let reply = match &fault {
            Fault::Say(..) | Fault::Silence => Vec::new(),
            _ => from.next().await?,
        };
        match fault {
            Fault::CutAfter | Fault::CutBefore | Fault::SayAfter(201.., _) => return Ok(()),
            Fault::CutInside => return to.write_all(&reply[..reply.len() / 2]).await,
            Fault::DelayReply(time) => {
                sleep_until(came + time).await;
                to.write_all(&reply).await?;
            }
            Fault::Say(_, said) | Fault::SayAfter(_, said) => to.write_all(&said).await?,
            Fault::Silence => return std::future::pending().await,
            Fault::Slice => sliced(&mut to, &reply).await?,
            Fault::Swap => to.write_all(&desk.exchange(reply)).await?,
            Fault::Twice => {
                from.next().await?;
                to.write_all(&reply).await?;
            }
            Fault::Doubled => to.write_all(&reply.repeat(2)).await?,
            Fault::LeftOut => {}
            Fault::Late(_) | Fault::Pass => to.write_all(&reply).await?,
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
