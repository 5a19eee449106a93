//! A blocking client of the Postgres wire protocol, version 3.
//!
//! Lives here: startup without a password, the simple and the extended protocol, COPY. Drivers hide what a comparison needs
//! (type OIDs, raw bytes in both formats, notices, every error field), so the tests speak the protocol themselves; that
//! drivers work is tested with drivers. Not here: TLS and SCRAM, which the gateway's own tests cover.

use std::{
    fmt,
    io::{self, BufReader, BufWriter, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A longer silence is a hang, and a hang is a failure with a message instead of a stuck test.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// A message larger than this is a framing error of ours or theirs.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
}

impl Target {
    pub fn local(port: u16) -> Self {
        Self {
            host: "127.0.0.1".into(),
            port,
            user: "postgres".into(),
            database: "postgres".into(),
        }
    }

    /// Reads `postgres://user@host:port/database`; the server must trust the user, a password is not sent.
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, address) = authority.split_once('@').unwrap_or(("postgres", authority));
        let (host, port) = address.split_once(':').unwrap_or((address, "5432"));
        Some(Self {
            host: host.into(),
            port: port.parse().ok()?,
            user: user.split(':').next()?.into(),
            database: if database.is_empty() { "postgres" } else { database }.into(),
        })
    }
}

/// A column as RowDescription announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub oid: u32,
}

/// What one statement answered: the columns if it has any, the rows' raw bytes, and the command tag.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    pub tag: String,
    /// The bytes of COPY TO STDOUT.
    pub copied: Vec<u8>,
}

impl Reply {
    /// The rows a statement wrote or returned, from its command tag.
    pub fn n_rows(&self) -> u64 {
        self.tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Values of a text-format reply; NULL is `None`.
    pub fn text(&self) -> Vec<Vec<Option<String>>> {
        let value = |v: &Option<Vec<u8>>| v.as_ref().map(|b| String::from_utf8_lossy(b).into());
        self.rows.iter().map(|row| row.iter().map(value).collect()).collect()
    }
}

/// An error the server reported.
#[derive(Clone, Debug, Default)]
pub struct DbError {
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

#[derive(Debug)]
pub enum ClientError {
    Db(DbError),
    /// The conversation broke: the server went away, fell silent or sent what the protocol does not allow.
    Io(io::Error),
}

impl ClientError {
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Db(error) => Some(&error.code),
            Self::Io(_) => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Db(error) => {
                write!(f, "{}: {}", error.code, error.message)?;
                if let Some(detail) = &error.detail {
                    write!(f, " DETAIL: {detail}")?;
                }
                if let Some(hint) = &error.hint {
                    write!(f, " HINT: {hint}")?;
                }
                Ok(())
            }
            Self::Io(error) => write!(f, "connection: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, ClientError>;

fn broken(message: impl Into<String>) -> ClientError {
    ClientError::Io(io::Error::new(io::ErrorKind::InvalidData, message.into()))
}

/// A parameter of Bind, with the type that Parse declares for it; OID 0 leaves the type to the server.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub oid: u32,
    pub binary: bool,
    /// `None` is NULL.
    pub bytes: Option<Vec<u8>>,
}

impl Parameter {
    pub fn text(value: Option<&str>) -> Self {
        Self { oid: 0, binary: false, bytes: value.map(|text| text.as_bytes().to_vec()) }
    }
}

/// What CancelRequest needs to name a session.
#[derive(Clone, Debug, Default)]
pub struct CancelKey {
    address: String,
    key: Vec<u8>,
}

impl CancelKey {
    /// Sends a CancelRequest on a connection of its own. The server answers with nothing but its end.
    pub fn cancel(&self) -> Result<()> {
        let mut stream = TcpStream::connect(self.address.as_str())?;
        let mut packet = (self.key.len() as u32 + 8).to_be_bytes().to_vec();
        packet.extend(80_877_102_u32.to_be_bytes());
        packet.extend(&self.key);
        stream.write_all(&packet)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        Ok(())
    }
}

pub struct Client {
    read: BufReader<TcpStream>,
    write: BufWriter<TcpStream>,
    /// Messages of the notices since the caller last took them.
    pub notices: Vec<String>,
    pub cancel_key: CancelKey,
}

impl Client {
    pub fn connect(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect((target.host.as_str(), target.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        let read = BufReader::new(stream.try_clone()?);
        let address = format!("{}:{}", target.host, target.port);
        let mut client = Self {
            read,
            write: BufWriter::new(stream),
            notices: Vec::new(),
            cancel_key: CancelKey { address, key: Vec::new() },
        };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in [("user", &target.user), ("database", &target.database)] {
            put_str(&mut body, name);
            put_str(&mut body, value);
        }
        body.push(0);
        client.write.write_all(&(body.len() as u32 + 4).to_be_bytes())?;
        client.write.write_all(&body)?;
        client.write.flush()?;
        client.until_ready()?;
        Ok(client)
    }

    /// One Query message. With several statements in it, the reply is the last one's.
    pub fn simple(&mut self, sql: &str) -> Result<Reply> {
        let mut body = Vec::new();
        put_str(&mut body, sql);
        self.send(b'Q', &body)?;
        self.write.flush()?;
        self.until_ready()
    }

    /// Parse, Bind, Describe, Execute and Sync, with parameters as text and results as text or binary.
    pub fn extended(
        &mut self,
        sql: &str,
        parameters: &[Option<String>],
        binary: bool,
    ) -> Result<Reply> {
        let parameters: Vec<_> =
            parameters.iter().map(|value| Parameter::text(value.as_deref())).collect();
        self.extended_with(sql, &parameters, binary)
    }

    /// As `extended`, with each parameter's type and format given.
    pub fn extended_with(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
        binary: bool,
    ) -> Result<Reply> {
        let count = (parameters.len() as u16).to_be_bytes();
        let mut parse = vec![0];
        put_str(&mut parse, sql);
        parse.extend(count);
        parameters.iter().for_each(|it| parse.extend(it.oid.to_be_bytes()));
        self.send(b'P', &parse)?;
        let mut bind = vec![0, 0];
        bind.extend(count);
        parameters.iter().for_each(|it| bind.extend(u16::from(it.binary).to_be_bytes()));
        bind.extend(count);
        for parameter in parameters {
            match &parameter.bytes {
                None => bind.extend((-1_i32).to_be_bytes()),
                Some(bytes) => {
                    bind.extend((bytes.len() as u32).to_be_bytes());
                    bind.extend(bytes);
                }
            }
        }
        bind.extend(1_u16.to_be_bytes());
        bind.extend(u16::from(binary).to_be_bytes());
        self.send(b'B', &bind)?;
        self.send(b'D', b"P\0")?;
        self.send(b'E', &[0, 0, 0, 0, 0])?;
        self.send(b'S', &[])?;
        self.write.flush()?;
        self.until_ready()
    }

    /// COPY FROM STDIN with the whole input at hand, in messages of a size that drivers use.
    pub fn copy_in(&mut self, sql: &str, mut input: impl Read) -> Result<Reply> {
        self.copy_begin(sql)?;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let n = input.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            self.send(b'd', &chunk[..n])?;
        }
        self.copy_done()
    }

    /// Begins COPY FROM STDIN and waits until the server asks for data.
    pub fn copy_begin(&mut self, sql: &str) -> Result<()> {
        let mut body = Vec::new();
        put_str(&mut body, sql);
        self.send(b'Q', &body)?;
        self.write.flush()?;
        loop {
            let (kind, message) = self.receive()?;
            match kind {
                b'G' => return Ok(()),
                b'E' => {
                    let error = fields(&message);
                    self.until_ready()?;
                    return Err(ClientError::Db(error));
                }
                b'N' => self.notices.push(fields(&message).message),
                _ => return Err(broken(format!("{} instead of CopyInResponse", kind as char))),
            }
        }
    }

    /// One CopyData message, sent at once.
    pub fn copy_data(&mut self, data: &[u8]) -> Result<()> {
        self.send(b'd', data)?;
        Ok(self.write.flush()?)
    }

    pub fn copy_done(&mut self) -> Result<Reply> {
        self.send(b'c', &[])?;
        self.write.flush()?;
        self.until_ready()
    }

    pub fn copy_fail(&mut self, reason: &str) -> Result<Reply> {
        let mut body = Vec::new();
        put_str(&mut body, reason);
        self.send(b'f', &body)?;
        self.write.flush()?;
        self.until_ready()
    }

    /// Reads the answer to what was sent before, up to ReadyForQuery.
    pub fn answer(&mut self) -> Result<Reply> {
        self.until_ready()
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        self.write.write_all(&[kind])?;
        self.write.write_all(&(body.len() as u32 + 4).to_be_bytes())?;
        self.write.write_all(body)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.read.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(broken(format!("message length {length}")));
        }
        let mut body = vec![0; length - 4];
        self.read.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// Reads up to ReadyForQuery. The first error wins, and the connection stays usable behind it.
    fn until_ready(&mut self) -> Result<Reply> {
        let mut reply = Reply::default();
        let mut error = None;
        loop {
            let (kind, body) = self.receive()?;
            match kind {
                b'Z' => return error.map_or(Ok(reply), |e| Err(ClientError::Db(e))),
                b'T' => {
                    reply = Reply { columns: columns(&body)?, ..Reply::default() };
                }
                b'D' => reply.rows.push(row(&body)?),
                b'd' => reply.copied.extend(body),
                b'C' => {
                    reply.tag = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body))
                        .into_owned();
                }
                b'E' => {
                    let found = fields(&body);
                    // Before ReadyForQuery of the startup, an error is the end of the conversation.
                    let fatal = found.code.starts_with("28") || found.code.starts_with("53300");
                    if fatal {
                        return Err(ClientError::Db(found));
                    }
                    error.get_or_insert(found);
                }
                b'N' => self.notices.push(fields(&body).message),
                b'R' if body != [0, 0, 0, 0] => return Err(broken("a password is asked for")),
                b'G' => {
                    return Err(broken("COPY FROM STDIN outside copy_in"));
                }
                b'K' => self.cancel_key.key = body,
                b'R' | b'S' | b'1' | b'2' | b'3' | b'n' | b'I' | b's' | b'H' | b'c' | b't' => {}
                other => return Err(broken(format!("unexpected message {}", other as char))),
            }
        }
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn take<'a>(body: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    let (head, rest) = body.split_at_checked(n).ok_or_else(|| broken("truncated message"))?;
    *body = rest;
    Ok(head)
}

fn take_i32(body: &mut &[u8]) -> Result<i32> {
    let bytes = take(body, 4)?;
    Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take_u16(body: &mut &[u8]) -> Result<u16> {
    let bytes = take(body, 2)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn columns(mut body: &[u8]) -> Result<Vec<Column>> {
    let n = take_u16(&mut body)?;
    let mut columns = Vec::new();
    for _ in 0..n {
        let end =
            body.iter().position(|b| *b == 0).ok_or_else(|| broken("unterminated column name"))?;
        let name = String::from_utf8_lossy(take(&mut body, end)?).into_owned();
        take(&mut body, 1 + 6)?;
        let oid = take_i32(&mut body)? as u32;
        take(&mut body, 8)?;
        columns.push(Column { name, oid });
    }
    Ok(columns)
}

fn row(mut body: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    let n = take_u16(&mut body)?;
    (0..n)
        .map(|_| match take_i32(&mut body)? {
            -1 => Ok(None),
            length => Ok(Some(take(&mut body, length as usize)?.to_vec())),
        })
        .collect()
}

fn fields(body: &[u8]) -> DbError {
    let mut error = DbError::default();
    for field in body.split(|b| *b == 0).filter(|f| !f.is_empty()) {
        let text = String::from_utf8_lossy(&field[1..]).into_owned();
        match field[0] {
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            _ => {}
        }
    }
    error
}
