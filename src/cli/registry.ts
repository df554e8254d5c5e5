/**
 * Every command: its names, its summary and where it lives. The table is all that is read before the
 * one command that was asked for is loaded.
 */
import type { Command } from './command.ts';
import type { Entry } from './entry.ts';
import { HOST_ENTRIES } from './registry/host.ts';
import { VM_ENTRIES } from './registry/vms.ts';

export const REGISTRY: readonly Entry<Command>[] = [...VM_ENTRIES, ...HOST_ENTRIES];

/** The command whose name the words begin with, the longest first. */
export function findEntry(
  words: readonly string[],
): { entry: Entry<Command>; typed: string; rest: string[] } | undefined {
  for (const length of [2, 1]) {
    const typed = words.slice(0, length).join(' ');
    const entry = REGISTRY.find((candidate) => candidate.path === typed || candidate.aliases.includes(typed));
    if (entry && words.length >= length) return { entry, typed, rest: words.slice(length) };
  }
  return undefined;
}
