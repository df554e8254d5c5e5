/** What guests see of this host's processor. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';

export interface Processor {
  /** model, microcode and a digest of its features: two that differ in any of them are told apart */
  description: string;
  /** rate of its time stamp counter in MHz; null where the kernel does not say */
  tscMhz: number | null;
}

/** @param cpuinfo text of /proc/cpuinfo */
export function parseProcessor(cpuinfo: string): Processor {
  const fields = new Map<string, string>();
  for (const line of cpuinfo.split('\n')) {
    const colon = line.indexOf(':');
    const name = line.slice(0, colon).trim();
    // of the first processor: the others are the same
    if (colon > 0 && !fields.has(name)) fields.set(name, line.slice(colon + 1).trim());
  }
  const field = (name: string) => fields.get(name) ?? '';
  // arm64 calls them features, and names no model
  const features = (field('flags') || field('Features')).split(/\s+/).sort().join(' ');
  const digest = createHash('sha256').update(features).digest('hex').slice(0, 8);
  const model = field('model name') || [field('CPU implementer'), field('CPU part')].filter(Boolean).join(' ');
  const microcode = field('microcode');
  const details = [...(microcode === '' ? [] : [`microcode ${microcode}`]), `features ${digest}`];
  const bogomips = Number(field('bogomips'));
  return {
    description: `${model || 'unknown'} (${details.join(', ')})`,
    // the kernel makes them of the counter: two for each tick
    tscMhz: bogomips > 0 ? Math.round(bogomips * 500) / 1000 : null,
  };
}

export async function readProcessor(): Promise<Processor> {
  return parseProcessor(await readFile('/proc/cpuinfo', 'utf8'));
}
