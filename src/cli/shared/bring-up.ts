/** From a name to a running VM: started or created first, also the first bundle where there is none. */
import type { Bundle } from '../../api/bundle.ts';
import type { ImagePulled } from '../../api/image.ts';
import type { Vm, VmRunResult } from '../../api/vm.ts';
import { BangerError } from '../../errors.ts';
import { formatDuration } from '../../units.ts';
import type { OptionValues } from '../command-shape.ts';
import type { Context } from '../context.ts';
import { absoluteReference, isOciReference, registryAccess } from './oci.ts';
import { perform } from './operations.ts';
import { type START_OPTIONS, settled, startRequest, startTimes } from './start-options.ts';
import { AUTOSTART_HINT, givenVmFlags, type VmOptionValues, vmCreateRequest } from './vm-options.ts';

export type BringUpOptions = VmOptionValues &
  OptionValues<typeof START_OPTIONS> & {
    /** make no bundle */
    build: boolean;
    /** boot a new VM */
    cold: boolean;
  };

export interface BroughtUp {
  vm: Vm;
  created: boolean;
  /** whether it did not run before */
  started: boolean;
  /** whether it was suspended and goes on */
  resumed: boolean;
  /** whether it is new and started from a template */
  warm: boolean;
}

/** @param lease makes it a temporary VM */
export async function bringUp(ctx: Context, name: string, options: BringUpOptions, lease?: string): Promise<BroughtUp> {
  const { name: _, ...described } = vmCreateRequest(name, { ...options, image: await imageOf(ctx, options.image) });
  const { cold } = options;
  const leased = lease === undefined ? {} : { lease };
  const body = { ...described, ...startRequest(options), ...leased, ...(cold ? { cold } : {}) };
  const begin = () => perform(ctx, `run ${name}`, () => ctx.api.call('runVm', { params: { name }, body }));
  const { result } = await begin().catch(async (error) => {
    if (options.build || !lacksFirstBundle(error)) throw error;
    ctx.talk(
      'There is no bundle yet, which VMs boot from. Making one from Debian packages first; this takes some minutes.',
    );
    const { result: bundle } = await perform(ctx, 'bundle build', () => ctx.api.call('buildBundle', { body: {} }));
    ctx.talk(`${(bundle as Bundle).name} is ready in ${(bundle as Bundle).directory}`);
    return await begin();
  });
  // without the last four where another client had begun to start it
  const {
    created = false,
    started = true,
    resumed = false,
    warm = false,
    ...reached
  } = result as Vm & Partial<VmRunResult>;
  const vm = started ? await settled(ctx, reached, options.until, options.timeout) : reached;
  const ignored = created ? [] : givenVmFlags(options);
  if (ignored.length > 0) ctx.warn(`${name} exists already; ${ignored.join(', ')} changes nothing`);
  return { vm, created, started, resumed, warm };
}

/** How it came up, and in which time. */
export function startText(vm: Vm, warm: boolean): string {
  return warm ? `from a template, ready after ${formatDuration(vm.readyMs ?? 0)}` : startTimes(vm);
}

/** The name of an image; one of a registry or file is pulled unless it is here. */
export async function imageOf(ctx: Context, image: string | undefined): Promise<string | undefined> {
  if (image === undefined || !isOciReference(image)) return image;
  const reference = absoluteReference(ctx, image);
  const body = { reference, ...registryAccess(ctx, {}) };
  const { result } = await perform(ctx, `pull ${image}`, () => ctx.api.call('pullImage', { body }));
  return (result as ImagePulled).name;
}

/** The closing sentence, and what a new VM is good for. */
export function sayWhatItIs(
  ctx: Context,
  { vm, created, started, resumed, warm }: BroughtUp,
  { autostart }: Pick<BringUpOptions, 'autostart'>,
): void {
  if (resumed) ctx.say(`${vm.name} was suspended and goes on at ${vm.address}`);
  else if (started) ctx.say(`${vm.name} is running at ${vm.address} (${startText(vm, warm)})`);
  else ctx.say(`${vm.name} is already running at ${vm.address}`);
  if (created) ctx.talk(`Log in with: banger ssh ${vm.name}`);
  if (created && autostart) ctx.talk(AUTOSTART_HINT);
}

/** Whether this banger has no bundle at all, so that the first one would be the default. */
function lacksFirstBundle(error: unknown): boolean {
  return error instanceof BangerError && error.code === 'not_found' && error.details?.bundles === 0;
}
