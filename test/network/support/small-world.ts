/**
 * A host, its guests and the networks around it, without a VMM: what runs here is in a network namespace of its own and plays
 * the host; guests and others are namespaces behind veth pairs, and a guest's host end stands in for its tap.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { loadConfig } from '../../../src/config/load.ts';
import { createHostNetwork } from '../../../src/control/network/host-network.ts';
import { gatewayOf, parseSubnet } from '../../../src/core/addresses.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import { openingOf } from '../../../src/network/held-packets.ts';
import { createLocalPort } from '../../../src/network/port.ts';
import { openSleepDevice } from '../../../src/network/sleep-device.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createLedger, HOST_OWNER } from '../../../src/state/ledger.ts';
import { createPrivileged } from '../../../src/system/privilege.ts';
import { createRunner, type Runner } from '../../../src/system/runner.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const run = promisify(execFile);
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
const real = createRunner(env);

/** Runs a scenario with a network, devices and processes of its own, which all end with it; what it printed. */
export async function playScenario(file: string): Promise<unknown> {
  const apart = ['--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const script = 'mount -t sysfs none /sys && exec "$@"';
  const argv = [...apart, 'sh', '-c', script, 'sh', process.execPath, file];
  const { stdout } = await run('unshare', argv, { env, timeout: 120_000, killSignal: 'SIGKILL' });
  return JSON.parse(stdout);
}

/** Somebody with a network of their own. */
export interface Place {
  pid: number;
  /** Runs a program there; its output, or what went wrong. */
  sh(script: string): Promise<string>;
}

export async function sh(script: string): Promise<string> {
  return (await run('bash', ['-c', script], { env, timeout: 30_000 })).stdout.trim();
}

export async function createPlace(): Promise<Place> {
  const child = spawn('unshare', ['--net', 'sh', '-c', 'ip link set lo up; echo ready; exec sleep 300'], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  const pid = child.pid ?? 0;
  return {
    pid,
    async sh(script) {
      const inside = ['--net', `--target=${pid}`, 'bash', '-c', script];
      return await run('nsenter', inside, { env, timeout: 30_000 }).then(
        ({ stdout }) => stdout.trim(),
        (error) => `failed: ${error.stderr?.trim() ?? error}`,
      );
    },
  };
}

/** Joins the host with a place: `near` is the host's address and device, `far` that of the place. */
export async function join(place: Place, device: string, near: string, far: string): Promise<void> {
  await sh(`ip link add ${device} type veth peer name eth0 netns ${place.pid}
    ip address add ${near} dev ${device} && ip link set ${device} up`);
  await place.sh(`ip address add ${far} dev eth0 && ip link set eth0 up`);
}

/** Answers on a port of every address of the place with the address of who asks. */
export async function serve(place: Place | undefined, port: number): Promise<void> {
  const script = `require('node:net').createServer((socket) => {
    socket.on('error', () => {}).end(socket.remoteAddress + '\\n');
  }).listen(${port}, '0.0.0.0', () => console.log('ready'));`;
  const inside = place ? ['nsenter', '--net', `--target=${place.pid}`] : ['env'];
  const [program = '', ...args] = [...inside, process.execPath, '--eval', script];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
}

/** What a server says to a place, `nothing` when it cannot be reached. */
export async function ask(place: Place, address: string, port: number): Promise<string> {
  const said = await place.sh(`timeout 2 bash -c 'exec 3<>/dev/tcp/${address}/${port}; cat <&3' 2>/dev/null`);
  return said.startsWith('failed') || said === '' ? 'nothing' : said;
}

export interface Banger {
  network: ReturnType<typeof createHostNetwork>;
  /** Gives a VM its link. @returns the guest at its other end */
  attach(vm: VmRecord): Promise<Place>;
  /** Leads an address to the device of VMs that are asleep, as the daemon does. */
  layToSleep(address: string): Promise<Asleep>;
  gateway: string;
}

/** Where VMs are that are asleep. */
export interface Asleep {
  /** Leads another one's address there. */
  lead(address: string): Promise<void>;
  /** who wanted to connect to one since this was asked last, each once */
  wanted(): string[];
  /** Sends on what was held. */
  passOn(): void;
  /** No VM is asleep any more. */
  end(): Promise<void>;
}

/** A banger with its own pool, table and ledger. */
export async function createBanger(options: {
  pool: string;
  table: string;
  settings?: NodeJS.ProcessEnv;
  sleepDevice?: string;
}): Promise<Banger> {
  const { config } = await loadConfig({ env: { HOME: '/nonexistent', ...options.settings }, uid: 0 });
  const vms: VmRecord[] = [];
  const guests = new Map<string, Place>();
  const runner: Runner = {
    ...real,
    async run(argv, how) {
      // a device that a program in another namespace can be behind
      if (argv[1] !== 'tuntap') return await real.run(argv, how);
      const tap = argv[4] ?? '';
      const guest = guests.get(tap);
      return await real.run(
        ['ip', 'link', 'add', tap, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(guest?.pid)],
        how,
      );
    },
  };
  const pool = parseSubnet(options.pool);
  const gateway = gatewayOf(pool);
  const privileged = createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' });
  const ledger = createLedger(openDatabase(':memory:'));
  const name = options.sleepDevice ?? '';
  const network = createHostNetwork({
    config,
    runner,
    port: createLocalPort({
      privileged,
      programs: config.programs,
      atOnce: true,
    }),
    ledger,
    guests: () => vms,
    pool,
    table: options.table,
    uid: 0,
    guestDns: { gateway, port: 42_053 },
    sleepDevice: options.sleepDevice,
  });
  return {
    network,
    gateway,
    async attach(vm) {
      const guest = await createPlace();
      guests.set(`bgr-${vm.id}`, guest);
      vms.push(vm);
      await network.attach(vm);
      await guest.sh(`ip link set eth0 address ${vm.mac} up && ip address add ${vm.address}/32 dev eth0
        ip route add ${gateway} dev eth0 && ip route add default via ${gateway} dev eth0`);
      return guest;
    },
    async layToSleep(address) {
      const held: Buffer[] = [];
      const sources: string[] = [];
      const device = await network.alone(async (writeRules) => {
        ledger.record(HOST_OWNER, { kind: 'tap', name });
        await writeRules();
        return await openSleepDevice({
          ...{ runner: real, privileged, programs: config.programs, name, gateway },
          onPacket(packet) {
            const opening = openingOf(packet);
            if (opening === undefined) return;
            sources.push(opening.source);
            held.push(Buffer.from(packet));
          },
          onLost: (error) => console.error(error),
        });
      });
      await device.lead([address]);
      return {
        lead: (another) => device.lead([another]),
        wanted: () => [...new Set(sources.splice(0))],
        passOn: () => {
          for (const packet of held.splice(0)) device.passOn(packet);
        },
        async end() {
          device[Symbol.dispose]();
          ledger.strike('tap', name);
          await network.alone((writeRules) => writeRules());
        },
      };
    },
  };
}

export function vmAt(id: string, address: string, changes: Partial<VmRecord> = {}): VmRecord {
  const last = Number(address.split('.')[3]).toString(16).padStart(2, '0');
  return sampleVm({ id, name: `vm-${id}`, address, mac: `06:00:0a:63:00:${last}`, ...changes });
}
