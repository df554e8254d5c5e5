/** A program that opens many TCP connections, says so, and does nothing with them: PORT COUNT. */
import { connect } from 'node:net';

/** Connections opened at a time; a listening socket queues only so many. */
const BATCH = 200;

const [port, count] = process.argv.slice(2).map(Number);
let closed = 0;

function open(): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port: port ?? 0 }, resolve);
    socket.on('error', reject);
    socket.on('close', () => closed++);
    socket.resume();
  });
}

for (let opened = 0; opened < (count ?? 0); opened += BATCH) await Promise.all(Array.from({ length: BATCH }, open));
process.send?.({ opened: count });
process.on('message', () => process.send?.({ closed }));
