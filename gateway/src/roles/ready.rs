//! `cortexdb ready`: whether the process at an address serves. For health checks.
//!
//! A gateway is asked as Postgres's clients begin, which shows whether it lets them in; a meta or shard process, by a call
//! that it answers once it serves. Which of them is there shows in the first byte.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use cortex_shard_rpc::{ClientConfig, Service, ServiceClient, client::refused};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{config::ReadyConfig, run::say};

/// The service's name on the port of meta and shard processes.
const SERVICE: &str = "cortexdb.Ready";

/// A startup packet's protocol version, 3.0.
const PROTOCOL_VERSION: u32 = 3 << 16;

/// A server that speaks HTTP/2 answers Postgres's first bytes in its own way, or ends the connection.
const FIRST_ANSWER_WAIT: Duration = Duration::from_millis(500);

/// Longer first answers are not a server's of this kind.
const ANSWER_BYTES_MAX: usize = 1 << 14;

/// What answers on the port of a meta or shard process that serves.
pub(super) fn serve() -> Service {
    Service::new(SERVICE).unary("check", |(): ()| async {})
}

/// Exit code 0 if the process serves; otherwise one line says why not.
pub async fn run(config: ReadyConfig) -> ExitCode {
    match check(&config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("cortexdb: {}: {error:#}", config.connect));
            ExitCode::FAILURE
        }
    }
}

async fn check(config: &ReadyConfig) -> Result<()> {
    let asked = tokio::time::timeout(config.timeout, gateway(&config.connect));
    match asked.await.map_err(|_| anyhow!("no answer within {:?}", config.timeout))? {
        Ok(true) => return Ok(()),
        // Not Postgres's protocol.
        Ok(false) => {}
        Err(error) => return Err(error),
    }
    let client = ClientConfig { tls: config.tls.clone(), ..ClientConfig::default() };
    let calls = ServiceClient::new(&config.connect, &client)?;
    let Err(error) = calls.unary::<(), ()>(SERVICE, "check", &(), config.timeout).await else {
        return Ok(());
    };
    match refused(&config.connect, config.tls.as_ref()).await {
        Some(why) => Err(anyhow!("{why}")),
        None => Err(error.into()),
    }
}

/// Whether a gateway is there; an error if it does not let clients in.
async fn gateway(address: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(address).await.context("cannot connect")?;
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let mut packet = Vec::new();
    packet.extend_from_slice(&(8 + parameters.len() as u32).to_be_bytes());
    packet.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    packet.extend_from_slice(parameters);
    stream.write_all(&packet).await?;
    let mut head = [0; 5];
    let read = tokio::time::timeout(FIRST_ANSWER_WAIT, stream.read_exact(&mut head)).await;
    if !matches!(read, Ok(Ok(_))) {
        return Ok(false);
    }
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if !(4..=ANSWER_BYTES_MAX).contains(&length) || !b"RE".contains(&kind) {
        return Ok(false);
    }
    if kind == b'R' {
        return Ok(true);
    }
    let mut fields = vec![0; length - 4];
    stream.read_exact(&mut fields).await.context("it ended the connection")?;
    let field = |name: u8| {
        let found = fields.split(|byte| *byte == 0).find(|field| field.first() == Some(&name));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    match field(b'C').as_str() {
        // Starting or stopping.
        "57P01" | "57P03" => bail!("{}", field(b'M')),
        // It lets clients in, if not this one (a password, too many connections).
        _ => Ok(true),
    }
}
