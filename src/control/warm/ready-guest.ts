/** Makes a guest that stands ready: a VM of nobody that has begun as a template, for a new VM to take over. */
import { randomUUID } from 'node:crypto';
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import { runThroughAgent } from '../../guest/run-script.ts';
import { sleep } from '../../system/abort.ts';
import { hasProcesses } from '../../system/processes.ts';
import { admitBuildVm, discardBuildVm } from '../builds/build-vm.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { userOf } from '../handover.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import { loadTemplate, prepareTemplate, requireWhole } from '../vm/load-template.ts';
import type { Standby } from '../vm/standby.ts';
import { createTimeline } from '../vm/start-as-new.ts';
import { holdGuest, reachAgent, wakeAgain } from '../vm/wake.ts';
import { vmmSocketOf } from '../vmm.ts';

/** Said in logs of a guest that is no VM yet; it does not have it itself. */
const NAME = 'standby';

/** What each VM runs first. Twice: what was interrupted once was not translated as a whole. */
const REHEARSAL = 'true\nenv true\n';
const REHEARSAL_LIMIT_MS = 30_000;

/** Programs of the image that a wake starts: they would be at work when the guest is held, and go on as somebody else. */
const HOOKS_SCRIPT = '[ -z "$(ls -A /etc/banger/wake.d 2> /dev/null)" ]\n';

/** It is not rehearsed because its image has programs that run when it wakes. */
export class HasHooks extends Error {}

export interface ReadyOptions {
  settleMs: number;
  /** whether it may run before somebody takes it over */
  rehearses: boolean;
}

/** @throws HasHooks when it has to be made without a rehearsal; nothing is left of what fails */
export async function makeReady(
  host: Host,
  template: TemplateRecord,
  { settleMs, rehearses }: ReadyOptions,
  signal: AbortSignal,
): Promise<Standby> {
  const { shape, rootDiskBytes, workDiskBytes } = template;
  const { vcpus, memoryMib, nat, workMount } = shape;
  const boot = await findBootFiles(host, template.image);
  const vmm = await host.checks.chooseVmm(boot);
  const vm = await admitBuildVm(host, {
    ...{ name: NAME, image: boot.name, imageId: boot.imageId, vcpus, memoryMib, nat, rootDiskBytes, workDiskBytes },
    ...(workMount === null ? {} : { workDiskMount: workMount }),
  });
  host.stores.buildVms.rest(vm.id);
  try {
    const user = userOf(host, vm);
    if (user !== undefined && (await hasProcesses(user))) {
      throw new BangerError('conflict', `The user ${user} runs programs that are no VM's of this banger.`, {
        hint: `See which: ps -u ${user}`,
      });
    }
    const timeline = createTimeline();
    const launched = await prepareTemplate(host, vm, { template, boot, vmm }, timeline, signal);
    vm.vmm = launched.kind;
    vm.startedAt = host.now().toISOString();
    // under KVM nothing is translated, and the clock of a guest that was loaded goes on: it would miss when to stand still
    const isLoaded = vmm.acceleration === 'tcg' && rehearses;
    if (isLoaded) {
      await loadTemplate(host, vm, template, timeline, signal);
      await forgetMemory(host, vm);
      await unlessAborted(signal, rehearse(host, vm, template, settleMs));
    } else await requireWhole(host, template);
    signal.throwIfAborted();
    return { vm, launched, isLoaded };
  } catch (error) {
    await host.agents.drop(vm);
    await discardBuildVm(host, vm);
    throw error;
  }
}

/**
 * Its guest goes on as nobody else than the template, runs what every VM runs first, and stands still again. No packet leaves it.
 * @throws HasHooks
 */
async function rehearse(host: Host, vm: VmRecord, { createdAt }: TemplateRecord, settleMs: number): Promise<void> {
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  await api.send(setState('Resumed'));
  const agent = await reachAgent(host, vm);
  // at the template's own time: what is due since then is done by the VM that it becomes, which has a network
  await wakeAgain(host, vm, agent, new Date(createdAt));
  if ((await runThroughAgent(agent, HOOKS_SCRIPT, REHEARSAL_LIMIT_MS)).exitCode !== 0) throw new HasHooks();
  await runThroughAgent(agent, REHEARSAL, REHEARSAL_LIMIT_MS);
  await sleep(settleMs);
  await holdGuest(host, vm, randomUUID(), new AbortController().signal);
  await api.send(setState('Paused'));
}

/** Does not wait for what takes no signal: the end of the VMM that it waits for ends it, too. */
async function unlessAborted(signal: AbortSignal, work: Promise<void>): Promise<void> {
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    signal.throwIfAborted();
    await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
    work.catch(() => {});
    aborted.promise.catch(() => {});
  }
}
