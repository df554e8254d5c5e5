/** A program: the least a Node process can do for a query, the same answer for everyone. PORT */
import { createSocket } from 'node:dgram';

/** web.vm A 172.30.0.2, as an answer to vm1.vm; nobody looks at more than the id */
const ANSWER = Buffer.from('00008400000100010000000003766d3102766d0000010001c00c00010001000000050004ac1e0002', 'hex');

const socket = createSocket('udp4');
socket.on('message', (message, from) => {
  ANSWER[0] = message[0] ?? 0;
  ANSWER[1] = message[1] ?? 0;
  socket.send(ANSWER, from.port, from.address);
});
socket.bind(Number(process.argv[2]), '127.0.0.1', () => process.send?.({ state: 'listening' }));
