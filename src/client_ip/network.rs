use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// A network of addresses, such as `10.0.0.0/8` or `2001:db8::/32`; an address alone is a network
/// of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The text is not a network.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{text:?} is not a network: write an address, a slash and its length, such as 10.0.0.0/8, and \
     zeros behind that"
)]
pub struct InvalidNetwork {
    text: String,
}

impl Network {
    /// Reads an address and the length of its prefix. Bits behind the prefix must be zero. A network
    /// of IPv6-mapped addresses, such as `::ffff:10.0.0.0/104`, is that of the IPv4 addresses in it.
    ///
    /// # Errors
    ///
    /// [`InvalidNetwork`] when the text is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|&n| n <= bits).ok_or_else(invalid)?,
        };
        let written = Self { address, prefix };
        if written.masked(address) != address {
            return Err(invalid());
        }
        // A mapped address has bits up to its 96th, so that its prefix is no shorter.
        let mapped = if address.to_canonical() == address { 0 } else { 96 };
        Ok(Self { address: address.to_canonical(), prefix: prefix - mapped })
    }

    /// Whether the address is in it. IPv4 addresses in their IPv6-mapped form are IPv4 addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    fn masked(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
