//! A server on a port of its own, and a client that says exactly the bytes it is told to.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::{Duration, Instant},
};

use cortex_gateway::listener::Server;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::script::{Counters, Script};

/// A hang is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct TestServer {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestServer {
    pub fn start() -> TestServer {
        TestServer::with(100, Duration::from_secs(5), None)
    }

    pub fn with(connections: usize, grace: Duration, tls: Option<TlsAcceptor>) -> TestServer {
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let (send, receive) = std::sync::mpsc::channel();
        let script = Arc::new(Script { counters: counters.clone() });
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let server =
                    Server::bind("127.0.0.1:0", connections, grace, tls).await.expect("a port");
                server.gate().open(script);
                send.send(server.address().expect("an address")).expect("the test waits");
                server.serve(stopped).await;
            });
        });
        let address = receive.recv().expect("the server starts");
        TestServer { address, counters, stop, thread: Some(thread) }
    }

    /// A socket that has said nothing yet.
    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream, process_id: 0, secret: 0 }
    }

    /// A session that is ready for queries.
    pub fn session(&self) -> Client {
        let mut client = self.connect();
        client.send(&startup(&[("user", "postgres")]));
        client.until_ready();
        client
    }

    /// Others must not notice what one connection did.
    pub fn still_serves(&self) {
        let mut client = self.session();
        client.query("rows 1");
        assert_eq!(client.kinds_until_ready(), "TDCZ");
    }

    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    pub fn stopped(mut self) {
        self.stop.cancel();
        self.thread.take().expect("once").join().expect("the server ends in peace");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until a counter has this value.
pub fn wait_for(counter: &AtomicUsize, value: usize) {
    let begun = Instant::now();
    while counter.load(Ordering::SeqCst) != value {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} instead of {value}",
            counter.load(Ordering::SeqCst)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_version(196_608, parameters)
}

pub fn startup_version(version: i32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut packet = (body.len() as i32 + 4).to_be_bytes().to_vec();
    packet.extend(body);
    packet
}

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as i32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, sql: &str, oids: &[u32]) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
    body.extend((oids.len() as i16).to_be_bytes());
    oids.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    message(b'P', &body)
}

/// Text parameters.
pub fn bind(
    portal: &str,
    statement: &str,
    parameters: &[Option<&[u8]>],
    results: &[i16],
) -> Vec<u8> {
    bind_as(portal, statement, &[], parameters, results)
}

pub fn bind_as(
    portal: &str,
    statement: &str,
    formats: &[i16],
    parameters: &[Option<&[u8]>],
    results: &[i16],
) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0"].concat();
    body.extend((formats.len() as i16).to_be_bytes());
    formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
    body.extend((parameters.len() as i16).to_be_bytes());
    for parameter in parameters {
        match parameter {
            None => body.extend((-1i32).to_be_bytes()),
            Some(bytes) => {
                body.extend((bytes.len() as i32).to_be_bytes());
                body.extend(*bytes);
            }
        }
    }
    body.extend((results.len() as i16).to_be_bytes());
    results.iter().for_each(|format| body.extend(format.to_be_bytes()));
    message(b'B', &body)
}

pub fn describe(what: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[what], name.as_bytes(), b"\0"].concat())
}

pub fn execute(portal: &str, rows: i32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub struct Client {
    pub stream: TcpStream,
    pub process_id: i32,
    pub secret: i32,
}

/// One message of the server.
#[derive(Debug, Clone)]
pub struct Answer {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Answer {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        self.body
            .split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&code))
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// A text message's whole text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end_matches('\0').to_owned()
    }
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        // A server that has refused us may have closed already; the test looks at its answer.
        let _ = self.stream.write_all(bytes);
    }

    pub fn query(&mut self, sql: &str) {
        self.send(&query(sql));
    }

    /// The next message; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Answer> {
        let mut head = [0; 5];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => return None,
        }
        let length = i32::from_be_bytes(head[1..].try_into().expect("four bytes"));
        let mut body = vec![0; length as usize - 4];
        self.stream.read_exact(&mut body).expect("a whole message");
        if head[0] == b'K' {
            self.process_id = i32::from_be_bytes(body[..4].try_into().expect("four bytes"));
            self.secret = i32::from_be_bytes(body[4..].try_into().expect("four bytes"));
        }
        Some(Answer { kind: head[0], body })
    }

    pub fn until_ready(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let answer = self.next().unwrap_or_else(|| panic!("closed after {answers:?}"));
            let done = answer.kind == b'Z';
            answers.push(answer);
            if done {
                return answers;
            }
        }
    }

    pub fn kinds_until_ready(&mut self) -> String {
        self.until_ready().iter().map(|answer| char::from(answer.kind)).collect()
    }

    /// Reads to the end of the connection; the last message must be a FATAL with this code.
    pub fn expect_fatal(&mut self, code: &str) -> Answer {
        let mut last = None;
        while let Some(answer) = self.next() {
            last = Some(answer);
        }
        let last = last.expect("a last word");
        assert_eq!(last.kind, b'E', "{last:?}");
        assert_eq!(last.field(b'S').as_deref(), Some("FATAL"), "{:?}", last.text());
        assert_eq!(last.field(b'C').as_deref(), Some(code), "{:?}", last.text());
        last
    }

    /// Reads to ReadyForQuery; there must be an ERROR with this code.
    pub fn expect_error(&mut self, code: &str) -> Answer {
        let answers = self.until_ready();
        let error = answers.iter().find(|answer| answer.kind == b'E');
        let error = error.unwrap_or_else(|| panic!("no error in {answers:?}")).clone();
        assert_eq!(error.field(b'S').as_deref(), Some("ERROR"));
        assert_eq!(error.field(b'C').as_deref(), Some(code), "{:?}", error.text());
        error
    }

    /// The server has closed without another word.
    pub fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }

    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}
