/** `--config-file` and `--metadata`: a microVM described by files and started at once. */
import type { Action } from '../api/actions.ts';
import { vmmConfig } from '../api/bodies.ts';
import { Panic } from '../exit-code.ts';
import { Fault, unsupported } from '../fault.ts';
import { debugText, JsonError } from '../json/scanner.ts';
import { anything, deserialize } from '../json/schema.ts';
import type { ThreadLog } from '../log.ts';
import type { Vmm } from './vmm.ts';

/** A file that is refused or a machine that cannot be started, in Firecracker's words and in Rust's debug form. */
export class ConfigFileError extends Error {
  readonly debug: string;

  constructor(message: string, debug: string) {
    super(message);
    this.name = 'ConfigFileError';
    this.debug = debug;
  }
}

/** What errors are called here, by the prefix they have in answers of the API. */
const SECTIONS: Record<string, [prefix: string, variant: string]> = {
  'Balloon config error': ['Balloon device error', 'BalloonDevice'],
  'Drive config error': ['Block device error', 'BlockDevice'],
  'Boot source error': ['Boot source error', 'BootSource'],
  'Logger error': ['Logger error', 'Logger'],
  'Metrics error': ['Metrics error', 'Metrics'],
  'MMDS error': ['MMDS error', 'Mmds'],
  'MMDS limit exceeded error': ['MMDS error', 'Mmds'],
  'MMMDS config error': ['MMDS config error', 'MmdsConfig'],
  'Network config error': ['Network device error', 'NetDevice'],
  'Machine config error': ['VM config error', 'MachineConfig'],
  'Vsock config error': ['Vsock device error', 'VsockDevice'],
  'Entropy config error': ['Entropy device error', 'EntropyConfig'],
  'Pmem config error': ['Pmem device error', 'PmemConfig'],
  'Memory hotplug config error': ['Memory hotplug config error', 'MemoryHotplugConfig'],
};

/**
 * Configures the microVM section by section, in the order Firecracker reads them.
 * @throws ConfigFileError
 */
export async function configureFromFile(
  vmm: Vmm,
  text: Buffer,
  metadata: Buffer | undefined,
  log: ThreadLog,
): Promise<void> {
  try {
    let pending = metadata;
    for (const action of configActions(text)) {
      if (action.name === 'SetMmdsConfiguration') {
        loadMetadata(vmm, pending, log);
        pending = undefined;
      }
      await vmm.execute(action);
    }
    loadMetadata(vmm, pending, log);
  } catch (error) {
    throw sectionError(error);
  }
}

/** Boots what a file configured. @throws ConfigFileError */
export async function startConfigured(vmm: Vmm): Promise<void> {
  try {
    await vmm.start();
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    const cause = error.message.replace(/^Start microvm error: /, '');
    throw new ConfigFileError(
      `Could not Start MicroVM from one single json: ${cause}`,
      `StartMicroVM(${error.debug ?? debugText(cause)})`,
    );
  }
}

/** Fills the metadata store from a file; a Panic when it is no JSON, as in Firecracker. */
export function loadMetadata(vmm: Vmm, text: Buffer | undefined, log: ThreadLog): void {
  if (!text) return;
  try {
    vmm.resources.mmds.put(deserialize(text, anything));
  } catch (error) {
    if (error instanceof JsonError) throw new Panic(`MMDS error: metadata provided not valid json: ${error.debug}`);
    throw error;
  }
  log.info('Successfully added metadata to mmds from file');
}

function sectionError(error: unknown): unknown {
  const prefix = 'Configuration for VMM from one single json failed';
  if (error instanceof JsonError) {
    return new ConfigFileError(
      `${prefix}: Invalid JSON: ${error.message}`,
      `ParseFromJson(InvalidJson(${error.debug}))`,
    );
  }
  if (!(error instanceof Fault)) return error;
  const [, apiPrefix = '', cause = error.message] = /^(.*?): (.*)$/s.exec(error.message) ?? [];
  const [section = apiPrefix, variant = 'Unsupported'] = SECTIONS[apiPrefix] ?? [];
  return new ConfigFileError(
    `${prefix}: ${section}: ${cause}`,
    `ParseFromJson(${variant}(${error.debug ?? debugText(cause)}))`,
  );
}

function configActions(text: Buffer): Action[] {
  const config = deserialize(text, vmmConfig);
  const cpu = config['cpu-config'];
  const isEmpty = cpu === null || (typeof cpu === 'object' && Object.keys(cpu as object).length === 0);
  if (!isEmpty) throw unsupported('Configure CPU error', 'CPU modifiers are');
  const actions: (Action | null)[] = [
    config.logger && { name: 'ConfigureLogger', argument: config.logger },
    config.metrics && { name: 'ConfigureMetrics', argument: config.metrics },
    config['machine-config'] && { name: 'UpdateMachineConfiguration', argument: config['machine-config'] },
    { name: 'ConfigureBootSource', argument: config['boot-source'] },
    ...config.drives.map((argument): Action => ({ name: 'InsertBlockDevice', argument })),
    ...config['network-interfaces'].map((argument): Action => ({ name: 'InsertNetworkDevice', argument })),
    config.vsock && { name: 'SetVsockDevice', argument: config.vsock },
    config.balloon && { name: 'SetBalloonDevice', argument: config.balloon },
    config['mmds-config'] && { name: 'SetMmdsConfiguration', argument: config['mmds-config'] },
    config.entropy && { name: 'SetEntropyDevice', argument: config.entropy },
    ...config.pmem.map((argument): Action => ({ name: 'InsertPmemDevice', argument })),
    config['memory-hotplug'] && { name: 'SetMemoryHotplugDevice', argument: config['memory-hotplug'] },
  ];
  return actions.filter((action) => action !== null);
}
