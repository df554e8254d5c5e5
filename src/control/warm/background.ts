/** When templates are made: when somebody asks for one, and by itself after the first boot of an image. */
import { freemem } from 'node:os';
import type { ImageWarmed } from '../../api/image.ts';
import type { Operation } from '../../api/operation.ts';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import { imageFiles } from '../../storage/layout.ts';
import { MIB } from '../../units.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import { readOciRecord } from '../images/oci-record.ts';
import { findTemplate, wantedTemplate } from '../memory/templates.ts';
import { type MakeOptions, makeTemplate, type TemplateRequest } from './make.ts';
import { viewTemplate } from './view.ts';

/** Makes a template as an operation; a second one of the same image joins the first. */
export function warmImage(host: Host, request: TemplateRequest, { background }: MakeOptions): Operation {
  const image = request.image ?? host.config.bundle.default;
  return host.operations.start({
    kind: 'image.warm',
    target: `image ${image}`,
    joinable: true,
    background,
    run: async (progress, signal): Promise<ImageWarmed> => {
      const { template, made } = await makeTemplate(host, request, { background }, progress, signal);
      return { ...(await viewTemplate(host, template)), made };
    },
  });
}

/** How long nothing may have been asked for: whoever has just started a VM goes on to use it. */
const QUIET_MS = 3000;

/** A host that was busy is tried again when the next VM has booted; an image that cannot have one is left alone. */
const TRIES = 3;

/** Left of the host's memory beside that of the template's VM. */
const RESERVE_MIB = 512;

export interface Warmer {
  /** Makes no more templates. */
  close(): void;
}

/** @param quietMs without an operation before one begins */
export function createWarmer(host: Host, quietMs = QUIET_MS): Warmer {
  const { vms } = host.stores;
  /** VMs that boot for the first time */
  const booting = new Set<string>();
  /** how often one failed, by what it is for */
  const failures = new Map<string, number>();
  const waiting: VmRecord[] = [];
  let timer: NodeJS.Timeout | undefined;
  let busy = false;
  let quietSince = performance.now();

  const unfollow = vms.onChange(({ before, after }) => {
    const id = (after ?? before)?.id ?? '';
    if (before?.phase === 'starting' && after?.phase === 'running' && before.run === null) booting.add(id);
    if (after?.phase !== 'running') booting.delete(id);
    else if (after.ready !== null && booting.delete(id)) consider(after);
  });

  function consider(vm: VmRecord): void {
    const { automatic, templates } = host.config.warm;
    // a fork or a restored disk says nothing of the image
    if (!automatic || templates === 0 || vm.forkedFrom !== null || vm.machineId !== null || vm.process !== null) return;
    waiting.push(vm);
    lookSoon();
  }

  function lookSoon(): void {
    timer ??= setTimeout(() => {
      timer = undefined;
      void look();
    }, quietMs).unref();
  }

  async function look(): Promise<void> {
    if (host.operations.runningCount() > 0) quietSince = performance.now();
    const quiet = performance.now() - quietSince >= quietMs / 2;
    if (busy || !quiet) return lookSoon();
    const vm = waiting.shift();
    if (!vm) return;
    busy = true;
    try {
      await make(vm);
    } catch (error) {
      host.log.warn({ image: vm.image, error: messageOf(error) }, 'no template was made');
    } finally {
      busy = false;
      if (waiting.length > 0) lookSoon();
    }
  }

  async function make(vm: VmRecord): Promise<void> {
    if (freemem() < (vm.memoryMib + RESERVE_MIB) * MIB) {
      host.log.info({ image: vm.image }, 'no template is made: there is too little memory');
      return;
    }
    if (vm.imageId !== null) {
      // of an image that was replaced there will be no more VMs
      if (host.stores.images.findById(vm.imageId) === undefined) return;
      // what its process makes at its first start, as keys and ids, would be the same in all VMs
      if (await readOciRecord(imageFiles(host.config.paths.store, vm.imageId).oci)) return;
    }
    const wanted = await wantedTemplate(host, vm, await findVmBootFiles(host, vm));
    const key = JSON.stringify([wanted.shape, wanted.fit, vm.rootDiskBytes, vm.workDiskBytes]);
    const failed = failures.get(key) ?? 0;
    if (failed >= TRIES || (await findTemplate(host, wanted)).template) return;
    const { image, vcpus, memoryMib, rootDiskBytes, workDiskBytes, workDiskMount: workMount, nat } = vm;
    const request = { image, vcpus, memoryMib, rootDiskBytes, workDiskBytes, workMount, nat };
    const { id } = warmImage(host, request, { background: true });
    const { state, error } = await host.operations.finished(id);
    if (state !== 'failed') return;
    failures.set(key, failed + 1);
    host.log.warn({ image, error: error?.message }, 'no template was made');
  }

  return {
    close() {
      unfollow();
      clearTimeout(timer);
      waiting.length = 0;
    },
  };
}
