//! A pretended greenhouse sensor that answers HTTP with its latest reading.
//!
//! GET / answers JSON: temperature in °C, relative humidity in %, both drifting as a day in a greenhouse does, the
//! seconds since it started and the number of this reading. `/healthz` answers 200.
//!
//! env: `PORT` (default 9000); `SENSOR_NAME` (default greenhouse-1).
//! exit codes: 1 when the port cannot be had.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{env, io};

use guest_net::{Body, Reply, number_from_env, serve};

fn main() -> io::Result<()> {
    let name = env::var("SENSOR_NAME").unwrap_or_else(|_| "greenhouse-1".to_owned());
    let port = number_from_env("PORT", 9000) as u16;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("sensor: {name} answers on port {port}");
    let started = Instant::now();
    let mut weather = Weather::new();
    let mut sequence = 0_u64;
    let never = serve(&listener, |request| match request.path.as_str() {
        "/healthz" => Reply::text(200, "ok\n"),
        "/" => {
            sequence += 1;
            weather.advance();
            let json = format!(
                "{{\"sensor\":\"{name}\",\"sequence\":{sequence},\"uptimeSeconds\":{},\
                 \"temperature\":{},\"humidity\":{}}}\n",
                started.elapsed().as_secs(),
                Hundredths(weather.temperature),
                Hundredths(weather.humidity),
            );
            Reply { status: 200, content_type: "application/json", body: Body::Bytes(json.into()) }
        }
        _ => Reply::text(404, "not found\n"),
    })?;
    match never {}
}

/// Two values that wander round their means: each step is a random push and a pull back. Whole hundredths, as
/// printing floats would double the module.
struct Weather {
    temperature: i32,
    humidity: i32,
    random: u64,
}

impl Weather {
    const TEMPERATURE_MEAN: i32 = 2_150;
    const HUMIDITY_MEAN: i32 = 6_200;

    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        Self {
            temperature: Self::TEMPERATURE_MEAN,
            humidity: Self::HUMIDITY_MEAN,
            random: (now as u64) | 1,
        }
    }

    fn advance(&mut self) {
        self.temperature += self.push(25) + (Self::TEMPERATURE_MEAN - self.temperature) / 40;
        self.humidity += self.push(60) + (Self::HUMIDITY_MEAN - self.humidity) / 40;
        self.humidity = self.humidity.clamp(0, 10_000);
    }

    /// A number from `-limit` to `limit` (xorshift; no more than decoration hangs on it).
    fn push(&mut self, limit: i32) -> i32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % (2 * limit as u64 + 1)) as i32 - limit
    }
}

struct Hundredths(i32);

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:02}", self.0.abs() / 100, self.0.abs() % 100)
    }
}
