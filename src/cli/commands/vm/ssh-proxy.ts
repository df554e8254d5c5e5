/** `banger ssh-proxy`: the way of the user's ssh to a VM (ProxyCommand); bytes in, bytes out. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { loadConfig } from '../../../config/load.ts';
import { BangerError, messageOf } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { askSshAccess } from '../../shared/ssh-access.ts';
import { vmOfName } from '../../shared/vm-names.ts';
import type { Terminal } from '../../terminal.ts';

/** A guest on this host answers in milliseconds, an emulated one under load in seconds. */
const CONNECT_MS = 15_000;

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['vm'] },
  data: false,
  options: {
    zone: { type: 'text', placeholder: 'ZONE', help: 'zone the name may end with', default: 'the configured one' },
  },
  description: 'ssh runs it as its ProxyCommand where `banger ssh-config --install` said so. It starts no VM.',
  examples: ['ssh-proxy web', 'ssh-proxy web.lab --zone lab'],
  async run(ctx, { args, options }) {
    const zone = options.zone ?? (await loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid })).config.dns.zone;
    // the daemon writes down the VM's host key on the way, which ssh looks up after this connection is open
    const access = await askSshAccess(ctx, vmOfName(args.name, zone));
    await carry(ctx.terminal, access.address, access.port, args.name);
  },
});

async function carry(terminal: Terminal, address: string, port: number, name: string): Promise<void> {
  const socket = connect({ host: address, port, noDelay: true, allowHalfOpen: true });
  const limit = AbortSignal.timeout(CONNECT_MS);
  try {
    await once(socket, 'connect', { signal: limit });
  } catch (error) {
    socket.destroy();
    const why = limit.aborted ? `no answer within ${CONNECT_MS / 1000} s` : messageOf(error);
    throw new BangerError('guest_failed', `${name} cannot be reached on ${address} port ${port}: ${why}.`, {
      cause: error,
      hint: `banger logs ${name.split('.')[0]}`,
    });
  }
  // an ssh that has gone away is no error, and neither is a guest that has
  const quietly = (end: Promise<void>) => end.catch(() => void socket.destroy());
  const sending = quietly(pipeline(terminal.stdin, socket));
  await quietly(pipeline(socket, terminal.stdout, { end: false }));
  socket.destroy();
  await sending;
}
