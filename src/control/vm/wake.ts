/**
 * Before a guest is held, and after it goes on: its disks have what was written, its programs stand still until it has the
 * time, and it draws random numbers that nothing saved knows. Its agent does that within one program that runs already; a
 * guest without one is told over SSH.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { GuestAgent } from '../../guest/agent/agent.ts';
import { AgentError } from '../../guest/agent/errors.ts';
import type { WakeIdentity, WakeRequest } from '../../guest/agent/wake-request.ts';
import { askGuest } from '../../guest/ask.ts';
import { quote } from '../../guest/command.ts';
import { runInGuest } from '../../guest/run.ts';
import { AWAKE, resumeScript } from '../../guest/wake.ts';
import { sleep } from '../../system/abort.ts';
import type { Host } from '../host.ts';
import type { Manifest, Waker } from '../memory/manifest.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf } from '../vmm.ts';
import { awaitLogin } from './boot.ts';
import { stepGuestClocks } from './guest-clock.ts';
import { hostnameScript } from './rename.ts';

/** What the guest gets to write out what its programs wrote. */
const SYNC_LIMIT_MS = 5 * 60_000;

/** An agent that goes on answers in milliseconds; one that has not after this time will not. */
const AGENT_LIMIT_MS = 15_000;

/** How often it is tried until then: a refused connection costs the VMM little. */
const AGENT_RETRY_MS = 10;

/** A guest that goes on answers over SSH in a second or two; a busy host takes longer. */
const LOGIN_LIMIT_MS = 30_000;

/** Setting clock and seed starts three programs, on a host that may be busy. */
const WAKE_LIMIT_MS = 30_000;

/**
 * Has everything written to the disks, so that they lose nothing if the memory is given up, and lets go of the connections
 * to the guest, which would not outlive what follows.
 * @param token names this request, for the guest to be let go on by
 * @returns who is to wake it
 * @throws BangerError `guest_failed` when it does not answer, and so could not be woken later
 */
export async function quiesceGuest(host: Host, vm: VmRecord, token: string, signal: AbortSignal): Promise<Waker> {
  const agent = await host.agents.get(vm);
  if (agent) {
    await host.guests.drop(vm);
    if (await standsStill(host, vm, agent, token, signal)) return 'agent';
  }
  signal.throwIfAborted();
  const connection = await host.guests.get(vm);
  const { exitCode } = await runInGuest(connection, 'sync', { timeoutMs: SYNC_LIMIT_MS, signal });
  await host.guests.drop(vm);
  if (exitCode === 0) return 'ssh';
  throw new BangerError('guest_failed', `The guest of ${vm.name} did not write out what its programs wrote.`, {
    hint: `See what the guest says: banger logs ${vm.name}`,
  });
}

/**
 * Lets a guest stand still for a moment; its connections stay.
 * @throws BangerError `conflict` when it has no agent that can do that and wake a copy of it
 */
export async function holdGuest(host: Host, vm: VmRecord, token: string, signal: AbortSignal): Promise<void> {
  const agent = await neededAgent(host, vm, signal);
  if (agent?.hello.features.has('wake-new') && (await standsStill(host, vm, agent, token, signal))) return;
  signal.throwIfAborted();
  throw new BangerError(
    'conflict',
    `${vm.name} has no agent that answers, and only one can give a copy its own identity.`,
    {
      hint: `See why: banger show ${vm.name}   One of an older bundle gets it by: banger bundle build   and: banger restart ${vm.name}`,
    },
  );
}

/**
 * The agent of a guest, for what nothing else can do: one of a busy guest gets longer than from those who could go on by SSH.
 * @returns undefined when the guest has none that answers
 */
export async function neededAgent(host: Host, vm: VmRecord, signal: AbortSignal): Promise<GuestAgent | undefined> {
  const agent = await host.agents.get(vm);
  if (agent || host.agents.standing(vm)?.kind === 'absent') return agent;
  try {
    return await host.agents.connect(vm, { timeoutMs: AGENT_LIMIT_MS, signal });
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof AgentError) return undefined;
    throw error;
  }
}

/** @returns false where the agent fails at it, which is left to SSH then */
async function standsStill(
  host: Host,
  vm: VmRecord,
  agent: GuestAgent,
  token: string,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await agent.quiesce(token, { timeoutMs: SYNC_LIMIT_MS, signal });
    await host.agents.drop(vm);
    return true;
  } catch (error) {
    await agent.thaw(token).catch(() => {});
    host.agents.failed(vm, error);
    return false;
  }
}

/**
 * Sets clock and seed of a guest that goes on as itself, and lets its programs go on. It cannot be un-told. One that went on
 * from the same memory before gets rid of its connections too: their peers have heard more than it knows.
 * @throws BangerError when it does not answer
 */
export async function wakeGuest(
  host: Host,
  vm: VmRecord,
  { waker, again }: Pick<Manifest, 'waker' | 'again'>,
): Promise<void> {
  await host.guests.drop(vm);
  if (waker === 'agent') await tellAgent(host, vm, await reachAgent(host, vm), { mode: again ? 'again' : 'same' });
  else await wakeBySsh(host, vm);
  const oldName = vm.run?.hostname ?? vm.name;
  if (oldName !== vm.name) await rename(host, vm, oldName);
}

/**
 * Lets the programs of a guest go on that was to be held, or was held for a while. A guest without an agent has none that
 * stand still.
 * @param held whether its agent has held it, and so is there
 * @returns false when an agent that is there did not do it: then they go on by themselves, half a minute after they were held
 */
export async function thawGuest(host: Host, vm: VmRecord, held = false): Promise<boolean> {
  try {
    await host.agents.drop(vm);
    const agent = await holderOf(host, vm, held);
    if (agent) await wakeSame(host, vm, agent);
    return true;
  } catch (error) {
    host.log.warn({ vm: vm.name, error: messageOf(error) }, 'a guest that was held could not be woken');
    return false;
  }
}

/**
 * The same for somebody who waits for it: what the agent does not do is told, and the guest gets the time over SSH when it is
 * there to take it, which nobody waits for.
 */
export async function letHeldGoOn(host: Host, vm: VmRecord, held: boolean, warn: Progress['warn']): Promise<void> {
  if (await thawGuest(host, vm, held)) return;
  warn(
    `The agent of ${vm.name} does not answer. Programs that it has held go on by themselves within half a minute, and the clock is set over SSH.`,
  );
  void stepGuestClocks(host, [vm]);
}

/**
 * The agent that may hold a guest.
 * @returns undefined when it has none, or has ended
 * @throws AgentError when it does not answer
 */
async function holderOf(host: Host, vm: VmRecord, held: boolean): Promise<GuestAgent | undefined> {
  const agent = await neededAgent(host, vm, new AbortController().signal);
  if (agent) return agent;
  const absent = host.agents.standing(vm)?.kind === 'absent';
  // the end of a VMM is noticed by whoever watches it
  if ((absent && !held) || !(await findVmmOf(host, vm))) return undefined;
  if (!absent) throw new AgentError('silent', 'its agent does not answer');
  // one that has held its guest is there: it is begun again when it fell
  return await reachAgent(host, vm);
}

/** A VMM that has saved its guest may end a connection that began right after. */
async function wakeSame(host: Host, vm: VmRecord, agent: GuestAgent): Promise<void> {
  try {
    await tellAgent(host, vm, agent, { mode: 'same' });
  } catch (error) {
    if (!agent.closed) throw error;
    await tellAgent(host, vm, await reachAgent(host, vm), { mode: 'same' });
  }
}

/**
 * Makes a guest that goes on from another's memory a machine of its own.
 * @throws BangerError `guest_failed` unless it has said that all of it is done
 */
export async function wakeAs(host: Host, vm: VmRecord, identity: WakeIdentity, agent: GuestAgent): Promise<void> {
  await tellAgent(host, vm, agent, { mode: 'new', identity });
}

/**
 * Lets a guest go on from memory that others go on from too, as nobody else than it was. It is to be held again before anything
 * of it is seen.
 * @param at what time it has
 * @throws BangerError `guest_failed` unless it has said that all of it is done
 */
export async function wakeAgain(host: Host, vm: VmRecord, agent: GuestAgent, at: Date): Promise<void> {
  await tellAgent(host, vm, agent, { mode: 'again' }, at);
}

async function tellAgent(
  host: Host,
  vm: VmRecord,
  agent: GuestAgent,
  who: Pick<WakeRequest, 'mode' | 'identity'>,
  at?: Date,
): Promise<void> {
  try {
    const wallClockNs = BigInt((at ?? host.now()).getTime()) * 1_000_000n;
    const request = { generation: randomUUID(), seed: randomBytes(64), wallClockNs };
    await agent.wake({ ...request, ...who }, { timeoutMs: AGENT_LIMIT_MS });
  } catch (error) {
    throw notWoken(vm, error);
  }
}

function notWoken({ name }: Pick<VmRecord, 'name'>, error: unknown): BangerError {
  return new BangerError('guest_failed', `The guest of ${name} was not woken: ${messageOf(error)}.`, {
    cause: error,
    hint: `See what it says: banger logs ${name}`,
  });
}

/**
 * What was loaded has to find out that it was: until then nobody listens.
 * @throws BangerError `guest_failed`
 */
export async function reachAgent(host: Host, vm: VmRecord): Promise<GuestAgent> {
  const deadline = performance.now() + AGENT_LIMIT_MS;
  for (;;) {
    try {
      return await host.agents.connect(vm, { timeoutMs: Math.max(1, deadline - performance.now()) });
    } catch (error) {
      const early = error instanceof AgentError && (error.trouble === 'absent' || error.trouble === 'gone');
      if (!early || performance.now() >= deadline) throw notWoken(vm, error);
      await sleep(AGENT_RETRY_MS);
    }
  }
}

/** One that cannot set its seed goes on without: its memory is used once, so that nobody else draws the same numbers. */
async function wakeBySsh(host: Host, vm: VmRecord): Promise<void> {
  const connection = await awaitLogin(host, vm, LOGIN_LIMIT_MS, new AbortController().signal);
  host.guests.keep(vm, connection);
  const input = new Readable({ read() {} });
  const { exitCode } = await runInGuest(connection, `exec sh -c ${quote(resumeScript(randomBytes(32)))}`, {
    timeoutMs: WAKE_LIMIT_MS,
    input,
    onLine(line) {
      if (line === AWAKE) input.push(`${(host.now().getTime() / 1000).toFixed(3)}\n`);
    },
  });
  if (exitCode !== 0) host.log.warn({ vm: vm.name, exitCode }, 'a guest that went on did not set its clock or seed');
}

/** It got another name while it stood still; one that does not take it has it from its next start on. */
async function rename(host: Host, vm: VmRecord, oldName: string): Promise<void> {
  try {
    const { code } = await askGuest(await host.guests.get(vm), hostnameScript(oldName, vm.name), WAKE_LIMIT_MS);
    if (code === 0 && vm.run) host.stores.vms.update(vm.id, { run: { ...vm.run, hostname: vm.name } });
  } catch (error) {
    host.log.warn({ vm: vm.name, error: messageOf(error) }, 'a guest that went on did not take its new name');
  }
}
