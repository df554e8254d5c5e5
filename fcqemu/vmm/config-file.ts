/** `--config-file` and `--metadata`: a microVM described by files and started at once. */
import type { Action } from '../api/actions.ts';
import { vmmConfig } from '../api/bodies.ts';
import { Panic } from '../exit-code.ts';
import { Fault, unsupported } from '../fault.ts';
import { JsonError } from '../json/scanner.ts';
import { anything, deserialize } from '../json/schema.ts';
import type { Vmm } from './vmm.ts';

/**
 * Configures the microVM section by section, in the order Firecracker reads them, and boots it.
 * @throws Error with Firecracker's words when a section is refused or the start fails
 */
export async function bootFromConfigFile(vmm: Vmm, text: Buffer, metadata: Buffer | undefined): Promise<void> {
  try {
    for (const action of configActions(text)) {
      if (action.name === 'SetMmdsConfiguration') loadMetadata(vmm, metadata);
      await vmm.execute(action);
    }
    loadMetadata(vmm, metadata);
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    throw new Error(`Configuration for VMM from one single json failed: ${error.message}`);
  }
  try {
    await vmm.start();
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    const cause = error.message.replace(/^Start microvm error: /, '');
    throw new Error(`Could not Start MicroVM from one single json: ${cause}`);
  }
}

/** Fills the metadata store from a file; a Panic when it is no JSON, as in Firecracker. */
export function loadMetadata(vmm: Vmm, text: Buffer | undefined): void {
  if (!text) return;
  try {
    vmm.resources.mmds.put(deserialize(text, anything));
  } catch (error) {
    if (error instanceof JsonError) throw new Panic(`MMDS error: metadata provided not valid json: ${error.message}`);
    throw error;
  }
}

function configActions(text: Buffer): Action[] {
  const config = parseConfig(text);
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

function parseConfig(text: Buffer): ReturnType<typeof vmmConfig> {
  try {
    const config = deserialize(text, vmmConfig);
    const cpu = config['cpu-config'];
    const isEmpty = cpu === null || (typeof cpu === 'object' && Object.keys(cpu as object).length === 0);
    if (!isEmpty) throw unsupported('Configure CPU error', 'CPU modifiers are');
    return config;
  } catch (error) {
    if (error instanceof JsonError) throw new Fault(`Invalid JSON: ${error.message}`);
    throw error;
  }
}
