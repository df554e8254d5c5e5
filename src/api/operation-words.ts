/** What is known of an operation by its kind alone; imports nothing, because every command loads it. */

/** Those by which a suspended VM goes on; they join each other. */
export const LETS_GO_ON: ReadonlySet<string> = new Set(['vm.resume', 'vm.start', 'vm.run']);

/** Tells somebody who wants to use a VM what is waited for: `snapshot.create` by the name of its command. */
export function waitText(vmName: string, { kind, id }: { kind: string; id: string }): string {
  return `${vmName} has to wait for another operation, ${kind.replace(/^vm\./, '').replace('.', ' ')} (${id})`;
}
