//! The port's registers, for snapshots: vm-superio's own type is not serde's.

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState as Uart;

/// The port of a machine that does not run. Output that waits to be printed is not part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SerialState {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    input: Vec<u8>,
}

impl Default for SerialState {
    fn default() -> Self {
        Uart::default().into()
    }
}

impl From<Uart> for SerialState {
    fn from(uart: Uart) -> Self {
        Self {
            baud_divisor: [uart.baud_divisor_low, uart.baud_divisor_high],
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            line_status: uart.line_status,
            modem_control: uart.modem_control,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            input: uart.in_buffer,
        }
    }
}

impl From<&SerialState> for Uart {
    fn from(state: &SerialState) -> Self {
        let [baud_divisor_low, baud_divisor_high] = state.baud_divisor;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.input.clone(),
        }
    }
}
