/**
 * Whether packet rules are there, for who may not ask: one of them drops what is sent to a port of this process, so
 * whatever arrives tells that they are gone. It costs a packet, where listing rules costs sudo and a line in its log.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Canary extends Disposable {
  /** UDP port of 127.0.0.1 that the rules must drop packets to */
  port: number;
  /** Sends a packet. @returns whether it arrived: no rule dropped it */
  arrives(): Promise<boolean>;
}

/** On loopback a packet is delivered while it is sent; this process only has to come to reading it. */
const ARRIVAL_MS = 20;

/** @returns undefined where there is no such socket to be had */
export async function openCanary(): Promise<Canary | undefined> {
  const receiver = createSocket('udp4').unref();
  const sender = createSocket('udp4').unref();
  let arrived = false;
  for (const socket of [receiver, sender]) socket.on('error', () => {}); // what does not arrive was dropped
  receiver.on('message', () => {
    arrived = true;
  });
  const close = () => {
    receiver.close();
    sender.close();
  };
  try {
    receiver.bind({ address: '127.0.0.1', exclusive: true });
    await once(receiver, 'listening');
    const { port } = receiver.address();
    sender.connect(port, '127.0.0.1');
    await once(sender, 'connect');
    return {
      port,
      async arrives() {
        arrived = false;
        sender.send('', () => {});
        await sleep(ARRIVAL_MS, undefined, { ref: false });
        return arrived;
      },
      [Symbol.dispose]: close,
    };
  } catch {
    close();
    return undefined;
  }
}
