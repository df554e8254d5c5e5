/**
 * A host in a network namespace of its own, and a machine in another one that answers only some time after somebody has begun
 * to connect to it. Prints when the connection was made, in `ms`, and which packets were seen.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { openingOf } from '../../../src/network/held-packets.ts';
import { openSleepDevice } from '../../../src/network/sleep-device.ts';
import { createPrivileged } from '../../../src/system/privilege.ts';
import { createRunner } from '../../../src/system/runner.ts';

const [GATEWAY, ADDRESS, UP_AFTER_MS] = ['172.30.0.1', '172.30.0.9', 300];
const runner = createRunner();
const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
const ip = (...words: string[]) => runner.run(['ip', ...words]);

await ip('link', 'set', 'lo', 'up');
const held: Buffer[] = [];
const seen: object[] = [];
const first = Promise.withResolvers<void>();
const device = await openSleepDevice({
  ...{ runner, privileged, programs: { ip: 'ip', sysctl: 'sysctl' }, name: 'bgr-0badcafe', gateway: GATEWAY },
  onPacket(packet) {
    const opening = openingOf(packet);
    if (!opening) return;
    seen.push(opening);
    held.push(Buffer.from(packet));
    first.resolve();
  },
  onLost: (error) => console.error(error),
});
await device.lead([ADDRESS]);

// a kernel without IPv6 is told nothing of it
const lines: string[] = [];
const without = await openSleepDevice({
  ...{ runner, programs: { ip: 'ip', sysctl: 'sysctl' }, name: 'bgr-0badcaf0', gateway: GATEWAY, hasIpv6: false },
  privileged: {
    ...privileged,
    run(argv, options) {
      lines.push(`${argv.join(' ')} ${options?.input ?? ''}`);
      return privileged.run(argv, options);
    },
  },
  onPacket: () => {},
  onLost: (error) => console.error(error),
});
without[Symbol.dispose]();

// the machine: its address comes up with its device
const server = `require('node:net').createServer((socket) => socket.end('hello')).listen(80, '0.0.0.0', () => console.log('listens'))`;
const machine = spawn('unshare', ['--net', '--', process.execPath, '-e', server], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
await once(machine.stdout, 'data');

const began = performance.now();
const socket = connect(80, ADDRESS);
let text = '';
socket.on('data', (chunk) => {
  text += chunk;
});
const connected = once(socket, 'connect').then(() => performance.now() - began);
await first.promise;
await sleep(UP_AFTER_MS);
await ip('link', 'add', 'bgr-00000009', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(machine.pid));
const inside = (...words: string[]) => runner.run(['nsenter', `--net=/proc/${machine.pid}/ns/net`, 'ip', ...words]);
await inside('address', 'add', `${ADDRESS}/32`, 'dev', 'eth0');
await inside('link', 'set', 'eth0', 'up');
await inside('route', 'add', GATEWAY, 'dev', 'eth0');
await ip('address', 'add', `${GATEWAY}/32`, 'dev', 'bgr-00000009');
await ip('link', 'set', 'bgr-00000009', 'up');
await ip('route', 'replace', `${ADDRESS}/32`, 'dev', 'bgr-00000009', 'src', GATEWAY);
for (const packet of held) device.passOn(packet);
const tookMs = await connected;
await once(socket, 'end');
await device.lead([]);
const { stdout: routes } = await ip('-4', 'route', 'show');
device[Symbol.dispose]();
machine.kill('SIGKILL');
for (let tries = 0; tries < 100; tries++) {
  const { exitCode } = await runner.run(['ip', 'link', 'show', 'bgr-0badcafe'], { okExits: [0, 1] });
  if (exitCode === 1) break;
  await sleep(20);
}
const { stdout: links } = await ip('-brief', 'link');
console.log(
  JSON.stringify({
    tookMs,
    text,
    seen,
    withoutIpv6: lines.filter((line) => line.includes('addrgenmode')),
    routes: routes.trim(),
    links: links
      .trim()
      .split('\n')
      .map((line) => line.split(' ')[0]),
  }),
);
process.exit(0);
