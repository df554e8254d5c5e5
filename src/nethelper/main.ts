/**
 * bangernet: the network helper. systemd starts it when somebody connects to its socket, with the right to change the
 * network and no other, and it ends when nobody needs it; what it knows is in a journal.
 */
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import type { Server, Socket } from 'node:net';
import { parseArgs } from 'node:util';
import { parsePool, type Subnet } from '../core/addresses.ts';
import { BangerError, messageOf } from '../errors.ts';
import { createLocalPort } from '../network/port.ts';
import { listenOn, takeActivationSocket } from '../system/activation.ts';
import { createPrivileged, SUDO_PATH } from '../system/privilege.ts';
import { createRunner } from '../system/runner.ts';
import { peerReader } from '../system/socket-peer.ts';
import { VERSION } from '../version.ts';
import { createHelper, type Helper } from './helper.ts';
import { createHostView } from './host-view.ts';
import type { HelperLog } from './log.ts';
import { createHelperServer } from './server.ts';
import { openUsers } from './users.ts';

/** Ranges that bangers of users choose from by themselves; see `poolCandidates`. */
const POOLS = '172.27.0.0/16,172.28.0.0/15,172.30.0.0/16,10.213.0.0/16,10.214.0.0/16,10.128.0.0/10';
const VM_LIMIT = 256;

/** How often it is looked whether forwarding that was lent to VMs is wanted for more since. */
const LOOK_MS = 4000;
/** A daemon with VMs asks every minute. */
const IDLE_MS = 150_000;

const USAGE = `bangernet: changes the host's network for VMs of users; started by systemd (bangernet.socket)

  --vms N         VMs that a user may have at a time (${VM_LIMIT})
  --pools LIST    address ranges that users may have (${POOLS})
  --journal DIR   where it is written down what users have ($RUNTIME_DIRECTORY)
  --version
`;

export interface HelperProcess {
  argv: readonly string[];
  env: NodeJS.ProcessEnv;
  pid: number;
  /** ends the helper when aborted; what it made for VMs stays */
  signal: AbortSignal;
  log: HelperLog;
  print: (text: string) => void;
}

/** @throws BangerError when it was not started as it must be */
export async function runHelper({ argv, env, pid, signal, log, print }: HelperProcess): Promise<void> {
  const options = optionsOf(argv);
  if (options.help) return print(USAGE);
  if (options.version) return print(`bangernet ${VERSION}\n`);
  const descriptor = takeActivationSocket(env, pid);
  if (descriptor === undefined) {
    throw new BangerError('invalid_input', 'bangernet is started by systemd, when somebody connects to its socket.', {
      hint: 'sudo systemctl enable --now bangernet.socket',
    });
  }
  const peerOf = await peerReader();
  if (!peerOf) {
    throw new BangerError('host_unprepared', 'It cannot be told here who asks, so nobody is answered.', {
      hint: 'Run banger as root, or let users have sudo: banger doctor --sudoers',
    });
  }
  const journal = options.journal ?? env.RUNTIME_DIRECTORY;
  if (!journal)
    throw new BangerError('invalid_input', 'There is no directory for the journal.', { hint: '--journal DIR' });
  await mkdir(journal, { recursive: true, mode: 0o700 });
  // nothing of whoever started it
  const runner = createRunner({ PATH: SUDO_PATH });
  const programs = { ip: 'ip', nft: 'nft', sysctl: 'sysctl' };
  const helper = createHelper({
    // its programs have the rights that it has
    port: createLocalPort({
      privileged: createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: '' }),
      programs,
      atOnce: true,
    }),
    host: createHostView(runner, programs.ip),
    users: openUsers(journal, log),
    vmLimit: options.vmLimit,
    pools: options.pools,
  });
  const server = createHelperServer({ helper, peerOf, log });
  await listenOn(server, descriptor);
  log(`bangernet ${VERSION} is ready`);
  const idle = new AbortController();
  using _end = endWhenIdle(server, helper, log, () => idle.abort());
  await once(AbortSignal.any([signal, idle.signal]), 'abort');
  server.close();
}

interface Options {
  vmLimit: number;
  pools: Subnet[];
  journal: string | undefined;
  help: boolean;
  version: boolean;
}

function optionsOf(argv: readonly string[]): Options {
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: {
        vms: { type: 'string', default: String(VM_LIMIT) },
        pools: { type: 'string', default: POOLS },
        journal: { type: 'string' },
        help: { type: 'boolean', default: false },
        version: { type: 'boolean', default: false },
      },
    });
    if (!/^[1-9]\d{0,3}$/.test(values.vms))
      throw new Error(`--vms takes a number from 1 to 9999, not "${values.vms}".`);
    return {
      vmLimit: Number(values.vms),
      pools: values.pools.split(',').map(parsePool),
      journal: values.journal,
      help: values.help,
      version: values.version,
    };
  } catch (error) {
    throw new BangerError('invalid_input', messageOf(error), { cause: error, hint: 'bangernet --help' });
  }
}

/** Looks after walls while there are any, and ends the helper when it has had nothing to do for a while. */
function endWhenIdle(server: Server, helper: Helper, log: HelperLog, end: () => void): Disposable {
  const clients = new Set<Socket>();
  let used = performance.now();
  server.on('connection', (client: Socket) => {
    used = performance.now();
    clients.add(client);
    client.once('close', () => clients.delete(client));
  });
  const look = setInterval(async () => {
    const isNeeded = await helper.mendWalls().catch((error) => {
      log(`a wall could not be taken down: ${messageOf(error)}`);
      return true;
    });
    if (isNeeded || clients.size > 0 || performance.now() - used < IDLE_MS) return;
    // at once: who comes from now on is answered by the next one
    server.close();
    log('nobody needs the helper; the next request starts one');
    end();
  }, LOOK_MS);
  return { [Symbol.dispose]: () => clearInterval(look) };
}
