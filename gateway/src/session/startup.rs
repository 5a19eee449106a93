//! From an accepted socket to a session that may execute: TLS, the startup packet, authentication.
//!
//! Lives here: what is said before the first query. Not here: how a password is proven (`auth`). Nothing executes before
//! AuthenticationOk, and no byte that came before TLS is read after it.

use std::net::IpAddr;

use bytes::Bytes;
use tokio_rustls::TlsAcceptor;

use super::{
    auth::{self, Demand, Exchange, Verifier},
    framing::{Phase, Stream, Wire},
    message::{Body, Text},
};
use crate::{
    encode,
    error::{PgError, SqlState},
    statement::SqlService,
};

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;
/// Protocol 3.0, the one that we speak.
const PROTOCOL: i32 = 3 << 16;
/// One for TLS, one for GSS, one that is a startup packet: who asks more often only wastes a connection.
const NEGOTIATIONS_MAX: usize = 3;

/// What a client wants with its new connection.
pub(crate) enum Start {
    Session(Parameters),
    Cancel {
        process_id: i32,
        secret: i32,
    },
    /// It closed without a word, as port scanners and health checks do.
    Gone,
}

/// The startup packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub user: String,
    pub database: String,
    /// Settings for the session, `options` taken apart.
    pub options: Vec<(String, String)>,
    /// Protocol options that we do not know, to be told to the client.
    unknown: Vec<String>,
    minor: i32,
}

/// Reads up to the startup packet, turning TLS on if the client asks for it.
pub(crate) async fn negotiate(
    wire: &mut Wire,
    tls: Option<&TlsAcceptor>,
) -> Result<Start, PgError> {
    for _ in 0..NEGOTIATIONS_MAX {
        let Some(packet) = wire.read_startup().await? else { return Ok(Start::Gone) };
        let mut body = Body::new(packet, "startup");
        match body.i32()? {
            SSL_REQUEST => {
                body.finish()?;
                if !answer_tls(wire, tls).await? {
                    return Ok(Start::Gone);
                }
            }
            GSSENC_REQUEST => {
                body.finish()?;
                nothing_behind(wire)?;
                wire.out.push(b'N');
                wire.flush().await;
            }
            CANCEL_REQUEST => {
                let (process_id, secret) = (body.i32()?, body.i32()?);
                body.finish()?;
                return Ok(Start::Cancel { process_id, secret });
            }
            version if version >> 16 == PROTOCOL >> 16 => {
                return parameters(body, version & 0xffff).map(Start::Session);
            }
            version => {
                return Err(PgError::fatal(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!(
                        "unsupported frontend protocol {}.{}: server supports 3.0 to 3.0",
                        version >> 16,
                        version & 0xffff
                    ),
                ));
            }
        }
    }
    Err(PgError::protocol("too many negotiation requests before the startup packet"))
}

/// Bytes behind a request for encryption came from somebody between client and server.
fn nothing_behind(wire: &Wire) -> Result<(), PgError> {
    if wire.has_unread() {
        return Err(PgError::protocol("received unencrypted data after an encryption request")
            .with_detail(
                "This could be either a client-software bug or evidence of an attempted \
                 man-in-the-middle attack.",
            ));
    }
    Ok(())
}

/// False if the handshake failed, which leaves nobody to talk to.
async fn answer_tls(wire: &mut Wire, tls: Option<&TlsAcceptor>) -> Result<bool, PgError> {
    nothing_behind(wire)?;
    let Some(acceptor) = tls else {
        wire.out.push(b'N');
        wire.flush().await;
        return Ok(true);
    };
    let Stream::Plain(_) = &wire.stream else {
        return Err(PgError::protocol("the connection is encrypted already"));
    };
    wire.out.push(b'S');
    wire.flush().await;
    let Stream::Plain(stream) = std::mem::replace(&mut wire.stream, Stream::Closed) else {
        return Ok(false);
    };
    match acceptor.accept(stream).await {
        Ok(stream) => {
            wire.stream = Stream::Tls(Box::new(stream));
            Ok(true)
        }
        Err(error) => {
            tracing::debug!(%error, "TLS handshake failed");
            Ok(false)
        }
    }
}

fn parameters(mut body: Body, minor: i32) -> Result<Parameters, PgError> {
    let (mut user, mut database) = (None, None);
    let (mut options, mut unknown) = (Vec::new(), Vec::new());
    loop {
        let name = owned(&body.text()?)?;
        if name.is_empty() {
            break;
        }
        let value = owned(&body.text()?)?;
        match name.as_str() {
            "user" => user = Some(value),
            "database" => database = Some(value),
            "options" => options.extend(split_options(&value)?),
            "replication" => refuse_replication(&value)?,
            name if name.starts_with("_pq_.") => unknown.push(name.to_owned()),
            "client_encoding" => options.push((name, encoding_name(value))),
            _ => options.push((name, value)),
        }
    }
    body.finish()?;
    let user = user.filter(|user| !user.is_empty()).ok_or_else(|| {
        PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        )
    })?;
    let database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    Ok(Parameters { user, database, options, unknown, minor })
}

fn owned(text: &Text) -> Result<String, PgError> {
    text.as_str().map(str::to_owned)
}

/// Postgres compares encodings by letters and digits alone; some drivers send the name in quotes.
fn encoding_name(value: String) -> String {
    let letters: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    match letters.to_ascii_lowercase().as_str() {
        "utf8" | "unicode" => "UTF8".to_owned(),
        _ => value,
    }
}

fn refuse_replication(value: &str) -> Result<(), PgError> {
    match value.to_ascii_lowercase().as_str() {
        "false" | "off" | "no" | "0" => Ok(()),
        _ => Err(PgError::unsupported(
            "replication connections are not supported",
            "Connect without the replication parameter.",
        )),
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`, separated by blanks; a backslash takes the next character as it is.
fn split_options(text: &str) -> Result<Vec<(String, String)>, PgError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            blank if blank.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);

    let mut options = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("--").or(word.strip_prefix("-c")).map(str::to_owned)
        };
        let pair = setting.as_deref().and_then(|setting| setting.split_once('='));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                format!("invalid command-line argument for server process: {word}"),
            )
            .with_hint("Write settings as -c name=value."));
        };
        options.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(options)
}

/// Lets the client in or says why not. Ends with AuthenticationOk in the buffer.
pub(crate) async fn authenticate(
    wire: &mut Wire,
    service: &dyn SqlService,
    parameters: &Parameters,
    peer: IpAddr,
) -> Result<(), PgError> {
    if parameters.minor > 0 || !parameters.unknown.is_empty() {
        encode::negotiate_protocol_version(&mut wire.out, PROTOCOL, &parameters.unknown);
    }
    let user = parameters.user.as_str();
    match auth::demand(service.login(user), user, peer) {
        Demand::Trust => {}
        Demand::Refuse(error) => return Err(error),
        Demand::Scram(verifier) => scram(wire, verifier, user).await?,
    }
    encode::authentication_ok(&mut wire.out);
    Ok(())
}

async fn scram(wire: &mut Wire, verifier: Verifier, user: &str) -> Result<(), PgError> {
    encode::authentication_sasl(&mut wire.out, &[auth::MECHANISM]);
    let mut body = Body::new(answer(wire).await?, "SASLInitialResponse");
    let mechanism = owned(&body.text()?)?;
    if mechanism != auth::MECHANISM {
        return Err(PgError::protocol("client selected an invalid SASL authentication mechanism"));
    }
    let length = usize::try_from(body.i32()?)
        .map_err(|_| PgError::protocol("the client's first SCRAM message is missing"))?;
    let first = body.take(length)?;
    body.finish()?;
    let exchange = Exchange::begin(verifier, super::message::utf8(&first)?)?;
    encode::authentication_sasl_continue(&mut wire.out, exchange.server_first());
    let last = answer(wire).await?;
    match exchange.finish(super::message::utf8(&last)?)? {
        Some(proof) => {
            encode::authentication_sasl_final(&mut wire.out, &proof);
            Ok(())
        }
        None => Err(auth::wrong_password(user)),
    }
}

/// Sends what is waiting and reads the client's answer to it. What comes behind the answer is read only when it was right.
async fn answer(wire: &mut Wire) -> Result<Bytes, PgError> {
    wire.flush().await;
    match wire.read_frame(Phase::Authentication).await? {
        Some(frame) if frame.kind == b'p' => Ok(frame.body),
        // psql closes here to ask for a password, and comes again.
        Some(_) | None => Err(PgError::fatal(
            SqlState::CONNECTION_FAILURE,
            "the client has closed the connection during authentication",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(text: &'static [u8]) -> Result<Parameters, PgError> {
        parameters(Body::new(Bytes::from_static(text), "startup"), 0)
    }

    #[test]
    fn the_database_is_named_as_the_user() {
        let parameters = packet(b"user\0me\0application_name\0x\0\0").expect("packet");
        assert_eq!((parameters.user.as_str(), parameters.database.as_str()), ("me", "me"));
        assert_eq!(parameters.options, [("application_name".into(), "x".into())]);
    }

    #[test]
    fn encodings_are_compared_loosely() {
        let parameters = packet(b"user\0me\0client_encoding\0'utf-8'\0\0").expect("packet");
        assert_eq!(parameters.options, [("client_encoding".into(), "UTF8".into())]);
    }

    #[test]
    fn broken_packets_are_refused() {
        for text in [
            b"user\0me\0".as_slice(),
            b"user\0me",
            b"user\0\0\0",
            b"\0",
            b"user\0me\0\0x",
            b"user\0m\xff\0\0",
            b"user\0me\0replication\0true\0\0",
        ] {
            assert!(packet(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn options_are_taken_apart() {
        let options = split_options(r"-c a=1  --work-mem=2\ MB -cc.d=e\\").expect("options");
        let expected = [("a", "1"), ("work_mem", "2 MB"), ("c.d", r"e\")];
        assert_eq!(options, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(split_options("-x").is_err());
        assert!(split_options("-c").is_err());
    }
}
