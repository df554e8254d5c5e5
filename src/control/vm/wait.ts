/** Waits until a VM is as somebody needs it: running, stopped, reachable, ready. */
import { connect } from 'node:net';
import { shownState, type VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { expiry, sleep } from '../../system/abort.ts';
import { formatDuration, timerMs } from '../../units.ts';
import type { Host } from '../host.ts';
import { lookAtUserData, readUserData } from './user-data.ts';

export type WaitedFor =
  | { kind: 'running' }
  | { kind: 'stopped' }
  | { kind: 'suspended' }
  | { kind: 'ssh' }
  | { kind: 'ready' }
  | { kind: 'cloud-init' }
  | { kind: 'port'; port: number };

/** How often a guest is asked; the state of a VM needs no asking. */
const POLL_MS = 250;

/** One connection on the way to a guest of this host takes milliseconds. */
const CONNECT_TIMEOUT_MS = 2000;

/**
 * `running`, `stopped`, `suspended`, `ssh`, `ready`, `cloud-init` or `port=NUMBER`.
 * @throws BangerError `invalid_input` for anything else
 */
export function parseWaitedFor(text: string): WaitedFor {
  const kind = (['running', 'stopped', 'suspended', 'ssh', 'ready', 'cloud-init'] as const).find(
    (known) => known === text,
  );
  if (kind) return { kind };
  const port = Number(/^port=(\d{1,5})$/.exec(text)?.[1]);
  if (port >= 1 && port <= 65_535) return { kind: 'port', port };
  throw new BangerError('invalid_input', `"${text}" is nothing that can be waited for.`, {
    hint: 'Wait for one of: ssh, ready, cloud-init, running, stopped, suspended, port=80',
  });
}

/**
 * @throws BangerError `timeout`, `not_found` when the VM is deleted meanwhile, `guest_failed` when its user data failed
 */
export async function waitForVm(
  host: Host,
  name: string,
  wanted: WaitedFor,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<VmRecord> {
  const { id } = host.stores.vms.get(name);
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const vm = host.stores.vms.findById(id);
    if (!vm) {
      throw new BangerError('not_found', `${name} was deleted while it was waited for.`, {
        hint: 'See what exists: banger ls',
      });
    }
    if (await holds(host, vm, wanted, Math.max(0, deadline - performance.now()))) return vm;
    const left = deadline - performance.now();
    if (left <= 0) throw outOfTime(vm, wanted, timeoutMs);
    await untilChange(host, id, Math.min(POLL_MS, left), signal);
  }
}

async function holds(host: Host, vm: VmRecord, wanted: WaitedFor, leftMs: number): Promise<boolean> {
  const runs = shownState(vm) === 'running';
  switch (wanted.kind) {
    case 'stopped':
    case 'suspended':
      return vm.phase === wanted.kind;
    case 'running':
      return runs;
    case 'ready':
      return runs && vm.ready !== null;
    case 'cloud-init':
      return runs && vm.ready !== null && (await hasTakenUp(host, vm));
    case 'ssh': {
      if (!runs) return false;
      const login = host.guests.get(vm).then(
        () => true,
        () => false,
      );
      return (await Promise.race([login, expiry(leftMs)])) ?? false;
    }
    case 'port':
      return runs && (await accepts(vm.address, wanted.port, Math.min(leftMs, CONNECT_TIMEOUT_MS)));
  }
}

/** @throws BangerError `conflict` for a VM that was given no user data, `guest_failed` when what it was given failed */
async function hasTakenUp(host: Host, vm: VmRecord): Promise<boolean> {
  if (!(await readUserData(host, vm))) {
    throw new BangerError('conflict', `${vm.name} was made without --user-data: there is nothing to wait for.`, {
      hint: `Wait until it is ready: banger wait ${vm.name} --for ready`,
    });
  }
  const found = await lookAtUserData(host, vm);
  if (found?.state !== 'failed') return found?.state === 'done';
  const log =
    found.by === 'script' ? `banger logs ${vm.name}` : `banger exec ${vm.name} -- cat /var/log/cloud-init.log`;
  throw new BangerError('guest_failed', `The user data of ${vm.name} failed: ${found.detail}.`, {
    hint: `See what it said: ${log}`,
  });
}

function accepts(address: string, port: number, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    const done = (accepted: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(accepted);
    };
    const timer = setTimeout(() => done(false), Math.max(1, timerMs(timeoutMs)));
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
  });
}

/** Until the record changes, and for `limitMs` at most. */
async function untilChange(host: Host, vmId: string, limitMs: number, signal: AbortSignal): Promise<void> {
  const changed = new AbortController();
  const unsubscribe = host.stores.vms.onChange(({ before, after }) => {
    if ((after ?? before)?.id === vmId) changed.abort();
  });
  try {
    await sleep(limitMs, AbortSignal.any([signal, changed.signal]));
  } catch (error) {
    if (signal.aborted) throw new BangerError('cancelled', `The client left: ${messageOf(error)}`);
  } finally {
    unsubscribe();
  }
}

function outOfTime(vm: VmRecord, wanted: WaitedFor, timeoutMs: number): BangerError {
  const what = {
    running: 'did not run',
    stopped: 'was not stopped',
    suspended: 'was not suspended',
    ssh: 'did not let us in over SSH',
    ready: 'was not ready',
    'cloud-init': 'was not done with its user data',
    port: '',
  }[wanted.kind];
  const said = wanted.kind === 'port' ? `did not accept a connection on port ${wanted.port}` : what;
  const why = vm.failure ?? vm.paused?.why;
  const state = `${shownState(vm)}${why === undefined ? '' : `: ${why}`}`;
  return new BangerError('timeout', `${vm.name} ${said} within ${formatDuration(timeoutMs)}; it is ${state}.`, {
    hint: `See what is the matter: banger show ${vm.name}   banger logs ${vm.name}`,
  });
}
