/** A network outside of this host, as far as VMs can tell: a namespace behind a device that plays the uplink. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRunner } from '../../src/system/runner.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

/** Tells whoever connects the address it is seen with. */
const SERVER = `require('node:net').createServer((socket) => {
  socket.on('error', () => {}).end(socket.remoteAddress + '\\n');
}).listen(80, '0.0.0.0', () => console.log('ready'));`;

export interface OutsideWorld extends AsyncDisposable {
  /** device of this host that leads there */
  uplink: string;
  /** this host's address there */
  hostAddress: string;
  /** address of a machine there that answers on port 80 with the address of who asks */
  address: string;
}

/** Addresses are from TEST-NET-2 (RFC 5737), which nothing on a host uses but the same test run twice at once. */
export async function createOutsideWorld(): Promise<OutsideWorld> {
  const uplink = `bto${process.pid}`;
  const namespace = `banger-test-${process.pid}`;
  const base = (process.pid % 64) * 4;
  const [hostAddress, address] = [`198.51.100.${base + 1}`, `198.51.100.${base + 2}`];
  const ip = (...args: string[]) => runner.run(['ip', ...args]);
  await ip('netns', 'add', namespace);
  await ip('link', 'add', uplink, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
  await ip('address', 'add', `${hostAddress}/30`, 'dev', uplink);
  await ip('link', 'set', uplink, 'up');
  await ip('-n', namespace, 'address', 'add', `${address}/30`, 'dev', 'eth0');
  await ip('-n', namespace, 'link', 'set', 'eth0', 'up');
  await ip('-n', namespace, 'link', 'set', 'lo', 'up');
  const server = serve(namespace);
  await once(server.stdout ?? server, 'data');
  return {
    uplink,
    hostAddress,
    address,
    async [Symbol.asyncDispose]() {
      server.kill('SIGKILL');
      await once(server, 'close');
      await ip('link', 'delete', uplink);
      await ip('netns', 'delete', namespace);
    },
  };
}

function serve(namespace: string): ChildProcess {
  const argv = ['netns', 'exec', namespace, process.execPath, '--eval', SERVER];
  return spawn('ip', argv, { stdio: ['ignore', 'pipe', 'inherit'] });
}
