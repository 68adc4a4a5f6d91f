// The controls around niivue, which shows the files embedded in the page.
"use strict";

(async () => {
  const page = JSON.parse(document.getElementById("page").textContent);
  const at = (id) => document.getElementById(id);
  const message = at("message");

  function bytesOf(id) {
    return Uint8Array.from(atob(at(id).textContent.trim()), (char) => char.charCodeAt(0));
  }

  async function inflated(id) {
    const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function start() {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await inflated("niivue"));
    document.head.append(script); // runs at once and defines `niivue`
    const nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.35, 0.65, 1, 0.9],
      crosshairGap: 8,
      fontColor: [1, 1, 1, 1],
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      logLevel: "error",
      multiplanarPadPixels: 6,
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      sagittalNoseLeft: true,
      scrollRequiresFocus: true,
      showAllOrientationMarkers: true,
      sliceType: niivue.SLICE_TYPE.MULTIPLANAR,
      loadingText: "",
    });
    await nv.attachToCanvas(at("canvas"), true);
    nv.addColormap("medrd", page.colours);

    const load = async (id) => niivue.NVImage.new(await inflated(id), `${id}.nii`);
    const scan = await load("scan");
    scan.colormap = "gray";
    [scan.cal_min, scan.cal_max] = page.window;
    nv.addVolume(scan);

    const heat = await load("heat");
    heat.colormap = "medrd";
    heat.cal_max = page.top;
    // From 0 to cal_max, paler the further below cal_min. By its number: niivue 0.69 has the
    // names of types 1 and 2 swapped for volumes (its issue 1594).
    heat.colormapType = 1;
    nv.addVolume(heat);
    nv.setCustomSliceShader(at("slice-shader").textContent.trim());
    if (page.truth) nv.loadDrawing(await load("truth"));
    nv.drawOpacity = page.truth ? 1 : 0;

    connect(nv, heat);
    globalThis.medrd = { nv };
    message.textContent = "";
    document.documentElement.dataset.ready = "true";
  }

  function connect(nv, heat) {
    // Thresholds redraw the map's texture, opacity and position only the picture.
    function setThreshold(value) {
      heat.cal_min = Math.max(value, 0.001);
      nv.updateGLVolume();
      at("threshold-value").textContent = `${value.toFixed(2)}${page.threshold ? " ×" : ""}`;
      at("mark").style.left = `${(100 * value) / page.top}%`;
    }
    function setOpacity(value) {
      nv.overlayAlphaShader = value;
      nv.drawScene();
      at("opacity-value").textContent = `${Math.round(100 * value)} %`;
    }
    const slow = (() => {
      let waiting = 0;
      return (work) => {
        cancelAnimationFrame(waiting);
        waiting = requestAnimationFrame(work);
      };
    })();
    at("threshold").addEventListener("input", () => slow(() => setThreshold(at("threshold").valueAsNumber)));
    at("opacity").addEventListener("input", () => setOpacity(at("opacity").valueAsNumber));
    at("threshold").disabled = at("opacity").disabled = false;

    for (const choice of document.getElementsByName("convention")) {
      choice.disabled = false;
      choice.addEventListener("change", () => nv.setRadiologicalConvention(choice.value === "radiological"));
    }
    const truth = at("show-truth");
    truth?.addEventListener("change", () => {
      nv.drawOpacity = truth.checked ? 1 : 0;
      nv.drawScene();
    });
    const cross = at("show-cross");
    cross.addEventListener("change", () => nv.setCrosshairWidth(cross.checked ? 1 : 0));

    const sliders = ["x", "y", "z"].map((axis) => at(`slice-${axis}`));
    const sizes = nv.volumes[0].dimsRAS.slice(1, 4);
    sliders.forEach((slider, axis) => {
      slider.max = sizes[axis] - 1;
      slider.disabled = false;
      slider.addEventListener("input", () => {
        const voxel = nv.frac2vox(nv.scene.crosshairPos);
        voxel[axis] = slider.valueAsNumber;
        moveTo(nv.vox2frac(voxel));
      });
    });

    function moveTo(fraction) {
      nv.scene.crosshairPos = fraction;
      nv.createOnLocationChange();
      nv.drawScene();
    }
    const letters = [["L", "R"], ["P", "A"], ["I", "S"]];
    nv.onLocationChange = (place) => {
      const voxel = nv.frac2vox(nv.scene.crosshairPos);
      sliders.forEach((slider, axis) => {
        slider.value = voxel[axis];
        const mm = place.mm[axis];
        at(`slice-${"xyz"[axis]}-value`).textContent = `${letters[axis][+(mm >= 0)]} ${Math.abs(mm).toFixed(1)} mm`;
      });
      const [grey, score] = place.values.map((entry) => entry.value);
      at("readout").textContent = `score ${score.toFixed(2)} ${page.sign} · scan ${Number(grey.toPrecision(3))}`;
    };

    const rows = [...document.querySelectorAll("#findings tbody tr[data-mm]")];
    function jump(row) {
      rows.forEach((other) => other.setAttribute("aria-selected", String(other === row)));
      moveTo(nv.mm2frac(row.dataset.mm.split(" ").map(Number)));
    }
    const show = (row) => {
      jump(row);
      at("view").scrollIntoView({ block: "nearest" }); // in a narrow window it is far above
    };
    for (const row of rows) {
      row.addEventListener("click", () => show(row));
      row.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        show(row);
      });
    }
    setOpacity(at("opacity").valueAsNumber);
    setThreshold(at("threshold").valueAsNumber);
    if (rows.length) jump(rows[0]);
    else moveTo(nv.scene.crosshairPos);
  }

  try {
    await start();
  } catch (error) {
    console.error(error);
    const reason = document.createElement("span");
    reason.textContent = `The viewer did not start (${error.message}). It needs a browser with WebGL 2. `;
    message.replaceChildren(reason);
    at("still")?.setAttribute("open", "");
  }
})();
