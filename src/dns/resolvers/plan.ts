/** What a change to the host's resolver consists of: files with their content and commands, in order. */
import { dirname } from 'node:path';
import { type Argv, commandLine } from '../../system/runner.ts';
import type { HostResolver } from '../resolver-detect.ts';

/** The names to send to bangerd, and where it listens. */
export interface Route {
  /** zone of the VMs, without dots at its ends */
  zone: string;
  /** reverse zones of the pool, without trailing dots */
  reverseZones: readonly string[];
  address: string;
  port: number;
}

export type Step =
  | { do: 'write'; path: string; content: string }
  | { do: 'remove'; path: string }
  /** `optional`: when it fails, things go on */
  | { do: 'run'; argv: Argv; optional?: true };

export interface Plan {
  /** what the change achieves, as a sentence */
  summary: string;
  steps: Step[];
}

/** How one resolver is told about the zone. */
export interface Recipe {
  plan(route: Route, host: HostResolver): Plan;
  /** files the plan may have written, whatever the host looked like then */
  ownedPaths(route: Route, host: HostResolver): string[];
  /** steps that take back a plan of which these files are left */
  undo(route: Route, host: HostResolver, paths: readonly string[]): Step[];
}

/** First line of every file banger writes; files without it are never removed. */
export const MARKER = '# Written by "banger dns setup"; "banger dns setup --undo" removes it.';

/** Zones in the order they are listed in files. */
export function zonesOf(route: Route): string[] {
  return [route.zone, ...route.reverseZones];
}

/** Base name of the files for a zone, so that several bangers with their own zones do not meet. */
export function baseName(route: Route): string {
  return `banger-${route.zone}`;
}

export function restartService(host: HostResolver, service: string): Step {
  if (host.init === 'systemd') return { do: 'run', argv: ['systemctl', 'restart', service] };
  if (host.init === 'openrc') return { do: 'run', argv: ['rc-service', service, 'restart'] };
  return { do: 'run', argv: ['service', service, 'restart'] };
}

export function removals(paths: readonly string[]): Step[] {
  return paths.map((path) => ({ do: 'remove', path }));
}

/** The plan as a POSIX shell script for root, for where nothing here may become root. */
export function renderScript(plan: Plan): string {
  const parts = plan.steps.map((step) => {
    if (step.do === 'run') return `${commandLine(step.argv)}${step.optional ? ' || true' : ''}\n`;
    const path = commandLine([step.path]);
    if (step.do === 'remove') return `rm -f ${path}\n`;
    const directory = commandLine([dirname(step.path)]);
    return `mkdir -p ${directory}\ncat > ${path} <<'END_OF_FILE'\n${step.content}END_OF_FILE\nchmod 0644 ${path}\n`;
  });
  return `#!/bin/sh\n# ${plan.summary}\nset -e\n${parts.join('')}`;
}

/** The plan as text for people: every file whole, every command as it could be typed. */
export function renderPlan(plan: Plan): string {
  const parts = plan.steps.map((step) => {
    if (step.do === 'run') return `run    ${commandLine(step.argv)}\n`;
    if (step.do === 'remove') return `remove ${step.path}\n`;
    const lines = step.content.trimEnd().split('\n');
    return `write  ${step.path}\n${lines.map((line) => `       | ${line}\n`).join('')}`;
  });
  return `${plan.summary}\n${parts.join('')}`;
}
